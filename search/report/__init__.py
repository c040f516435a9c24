"""Turns a result into tables, figures and a page."""

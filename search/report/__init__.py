"""A result as tables, figures and a page."""

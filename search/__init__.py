"""Decides what to train, where, and for how long."""

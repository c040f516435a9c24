"""Schedulers decide after each epoch whether a trial stops."""

"""Data sets: CIFAKE, the built-in sample, single pictures, and the audit of a data set."""

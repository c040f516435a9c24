"""Audit of a data set: counts, damaged files, copies, near-duplicates, colour."""

"""Machines: which there are, whether they agree, what they are brought."""

"""Propose parameters, as a pure function of seed, trial number and history."""

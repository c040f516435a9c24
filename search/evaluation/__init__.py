"""Chooses the best configurations, retrains them, and tests each once."""

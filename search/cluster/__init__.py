"""Runs jobs on Ray: nodes, workers, Ray Tune."""

"""Stop trials, decided from the record alone."""

"""The state of a study on a terminal and in files."""

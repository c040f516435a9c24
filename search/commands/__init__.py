"""Commands: one module each, called by `python -m search COMMAND`."""

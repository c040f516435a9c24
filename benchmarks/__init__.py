"""Commands that measure the project's claims about speed and search quality, and print and write the figures."""

"""What is claimed about speed and strength, as commands that print and write their figures."""

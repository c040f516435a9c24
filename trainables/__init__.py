"""Trains one image classifier: pure PyTorch, no Ray, no tracking, no YAML."""

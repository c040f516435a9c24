"""Trains one image classifier: pure PyTorch, without Ray, tracking or YAML."""

"""Listeners are informed of what happens in a search: live view, TensorBoard, Weights & Biases."""

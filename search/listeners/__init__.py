"""Told what happens in a search: live view, TensorBoard, Weights & Biases."""

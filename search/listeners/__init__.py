"""Listeners are called at each event of a search: live view, TensorBoard, Weights & Biases."""

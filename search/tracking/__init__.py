"""What Weights & Biases and TensorBoard are told."""

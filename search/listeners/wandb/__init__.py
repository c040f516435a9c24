"""Records trials and evaluations as runs in Weights & Biases."""

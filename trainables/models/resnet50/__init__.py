"""ResNet-50 of torchvision, with a single-logit head."""

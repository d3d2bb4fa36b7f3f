"""The PyTorch engine's memory."""

"""Checkpoints on disk: drawn, read without torch, inspected."""

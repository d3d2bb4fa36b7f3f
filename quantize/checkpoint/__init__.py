"""Checkpoints on disk: synthetic ones made, others read without torch, and what one has to hold."""

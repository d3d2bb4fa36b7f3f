"""Stands in for pillow."""

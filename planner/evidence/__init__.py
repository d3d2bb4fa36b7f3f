"""Measured runs beside their estimates, and what they say of the accuracy of others."""

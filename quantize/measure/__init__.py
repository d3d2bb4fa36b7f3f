"""From a plan to a measurement on a real GPU, and the two side by side."""

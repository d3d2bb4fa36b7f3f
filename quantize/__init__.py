"""Quantize with LMDeploy from a reviewed recipe, measure on the GPU, and compare with the plan."""

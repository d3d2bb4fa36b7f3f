"""Arithmetic that the engines share: terms, pools, weights on the GPU, KV blocks."""

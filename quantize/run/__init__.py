"""A quantization run from its preflight to the rename that makes the output appear."""

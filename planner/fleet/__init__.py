"""Many models on many GPUs: the file, and who goes where."""

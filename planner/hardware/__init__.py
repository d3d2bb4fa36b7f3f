"""GPUs by name, slice or size, and what only a host can tell: context, kernel code, communicators."""

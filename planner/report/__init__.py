"""A plan in, a string out. Only the command line prints."""

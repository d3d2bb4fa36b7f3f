"""Is the result still good: every tensor against the original's, and held-out text through both."""

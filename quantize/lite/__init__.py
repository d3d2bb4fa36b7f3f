"""`lmdeploy lite` by version: its words, its text, its output line by line, what it takes of a machine."""

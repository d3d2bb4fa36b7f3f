"""LMDeploy as seen from outside: what each version does, and its settings with that version's defaults."""

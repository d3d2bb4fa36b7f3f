"""One module an engine, and one table of what changed in which LMDeploy version."""

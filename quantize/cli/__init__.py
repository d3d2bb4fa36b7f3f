"""The commands that run LMDeploy or look at what it made: parse, one call, print."""

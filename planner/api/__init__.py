"""The planner as a library: names in, a plan or a decision out."""

"""Which settings and which GPU serve a load: candidates, the search, limits, speed, the decision."""

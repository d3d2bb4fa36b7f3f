"""From a model's config.json to the tensors of its checkpoint."""

"""Train a model, or the members of an ensemble."""

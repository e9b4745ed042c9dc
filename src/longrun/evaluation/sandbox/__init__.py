"""Code of a model, contained."""

"""What computes a model: one file a runtime."""

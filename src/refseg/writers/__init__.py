"""What a prediction is written as: one file a format."""

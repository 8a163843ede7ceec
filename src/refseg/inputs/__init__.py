"""What a user has, an image and words, becomes what a model reads, pixels and tokens."""

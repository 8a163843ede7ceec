"""What a user has, a picture and words, becomes what a model reads, pixels and tokens."""

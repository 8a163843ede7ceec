"""CLIP's encoders: pixels and tokens in, features out."""

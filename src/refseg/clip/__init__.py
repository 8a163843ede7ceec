"""CLIP's towers: pixels and tokens in, features out."""

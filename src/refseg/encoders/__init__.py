"""CLIP's image and text encoders, and the files of their weights."""

"""Referring expressions for annotated photos, generated from the masks and names of their objects."""

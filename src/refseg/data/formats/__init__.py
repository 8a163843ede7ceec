"""Readers of the formats in which data sets are distributed: one file for each, all of them yield the same records."""

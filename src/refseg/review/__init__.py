"""The page on which a person decides on the labels of a run of `refseg label`."""

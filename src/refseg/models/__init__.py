"""The models, one folder for each family, and the table of models with a name."""

"""How others write data sets down: one file a format, all of them read into the same records."""

"""The segmenters, one folder a family, and the zoo that names them."""

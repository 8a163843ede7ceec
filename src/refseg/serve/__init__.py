"""The HTTP server: any models of this package for many clients at once."""

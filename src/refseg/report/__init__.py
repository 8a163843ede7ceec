"""Reports of results: tables, charts and images."""

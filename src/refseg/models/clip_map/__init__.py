"""Plain CLIP, looked at patch by patch."""

"""RISCLIP: a frozen CLIP whose image-text alignment is extended."""

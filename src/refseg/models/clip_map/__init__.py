"""Plain CLIP as a segmentation model: the similarity of each patch to the expression."""

"""CRIS: CLIP-Driven Referring Image Segmentation (CVPR 2022)."""

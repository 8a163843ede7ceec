"""EFN: Encoder Fusion Network with Co-Attention Embedding for Referring Image Segmentation (CVPR 2021)."""

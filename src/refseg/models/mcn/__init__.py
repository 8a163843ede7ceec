"""MCN (Luo et al., CVPR 2020)."""

"""VLT (Ding et al., ICCV 2021)."""

"""RISCLIP: Extending CLIP's Image-Text Alignment to Referring Image Segmentation (NAACL 2024)."""

"""CLIPSeg: a frozen CLIP and a small decoder, trained on phrases of PhraseCut."""

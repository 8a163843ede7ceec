"""Other people's models, computed by the library transformers: the extra `refseg[peers]`."""

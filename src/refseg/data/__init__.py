"""Data sets: generated scenes, public data sets and folders of your own."""

from refseg.data.shapes import Shapes

__all__ = ["Shapes"]

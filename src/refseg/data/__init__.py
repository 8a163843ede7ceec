"""Where samples come from."""

from refseg.data.shapes import Shapes

__all__ = ["Shapes"]

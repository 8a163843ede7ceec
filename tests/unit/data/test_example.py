"""The example image of the package is drawn by the generator."""

import numpy as np
from PIL import Image

from refseg.data.shapes import EXAMPLE, Shapes


def test_the_example_is_the_scene_that_it_says():
    drawn = Shapes("test", scale=2.0).samples_of(150)[0].load_image()
    with Image.open(EXAMPLE) as stored:
        assert stored.size == (640, 480)
        # Equality would tie the test to one version of Pillow's drawing; a changed scene differs by far more.
        difference = np.abs(np.asarray(stored.convert("RGB"), dtype=int) - np.asarray(drawn, dtype=int))
    assert difference.mean() < 1

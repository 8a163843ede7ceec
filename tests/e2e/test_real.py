"""Prediction on real photos with a full-size CRIS; its weights are random, so only the files are checked.

`REFSEG_REAL_DATA=FOLDER pytest -m real`: the folder holds photos below `images`.
"""

import numpy as np
import pytest
import torch
from PIL import Image

import refseg
from refseg.cli.main import main
from refseg.models.cris.convert import as_checkpoint

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CRIS R50 that was converted from a checkpoint of the reference's format."""
    place = tmp_path_factory.mktemp("official")
    torch.manual_seed(0)
    model = refseg.create_model("cris-r50")
    torch.save(as_checkpoint(model.state_dict(), model.spec, {}), place / "official.pth")
    assert main(["convert", str(place / "official.pth"), str(place / "folder")]) == 0
    return place / "folder"


def test_every_photo_gets_masks_of_its_own_size(real_data, folder, tmp_path):
    photos = sorted((real_data / "images").rglob("*.jpg"))
    assert photos
    expressions = ["the man on the left", "second cup from the right"]
    assert main(["predict", *map(str, photos), *expressions, "--model", str(folder), "--out", str(tmp_path)]) == 0
    for photo in photos:
        with Image.open(photo) as image:
            size = image.size
        for index in range(len(expressions)):
            (file,) = tmp_path.glob(f"{photo.stem}__{index:03d}-*.png")
            with Image.open(file) as mask:
                assert mask.size == size
                assert set(np.unique(np.asarray(mask))) <= {0, 255}

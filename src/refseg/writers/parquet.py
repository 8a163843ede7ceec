"""A table in parquet that the library `datasets` of Hugging Face reads: a row for each image."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refseg.errors import ConfigError
from refseg.writers.labelled import LabelledImage, Region
from refseg.writers.overlay import mask_image

__all__ = ["write_parquet"]

FILE = "train-00000-of-00001.parquet"
FEATURES: dict[str, Any] = {
    "image": {"_type": "Image"},
    "file": {"dtype": "string", "_type": "Value"},
    "expression": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
    "score": {"feature": {"dtype": "float64", "_type": "Value"}, "_type": "List"},
    "mask": {"feature": {"_type": "Image"}, "_type": "List"},
}
"""The columns, as `datasets` describes them in the metadata of the file."""


def write_parquet(images: Sequence[LabelledImage], photos: Path, out: Path) -> None:
    """Write `data/train-00000-of-00001.parquet` with images and masks inside, masks as PNG of 0 and 255.

    Args:
        images: what is written; the lists `expression`, `score` and `mask` of a row have an element for each region.
        photos: the folder of the images, whose files are stored unchanged.
        out: a folder.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ConfigError("parquet needs pyarrow: pip install 'refseg[tables]'") from None
    file = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [
            ("image", file),
            ("file", pyarrow.string()),
            ("expression", pyarrow.list_(pyarrow.string())),
            ("score", pyarrow.list_(pyarrow.float64())),
            ("mask", pyarrow.list_(file)),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
    )
    (out / "data").mkdir()
    with parquet.ParquetWriter(out / "data" / FILE, schema) as table:
        for image in images:
            row = {
                "image": {"bytes": (photos / image.file).read_bytes(), "path": image.file},
                "file": image.file,
                "expression": [region.expression for region in image.regions],
                "score": [region.score for region in image.regions],
                "mask": [{"bytes": _png(region), "path": None} for region in image.regions],
            }
            table.write_table(pyarrow.Table.from_pylist([row], schema=schema))


def _png(region: Region) -> bytes:
    file = io.BytesIO()
    mask_image(region.mask).save(file, "PNG")
    return file.getvalue()

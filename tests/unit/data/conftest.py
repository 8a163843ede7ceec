"""Tiny data sets in the formats in which the real ones are distributed, and hostile values."""

from __future__ import annotations

import copy
import json
import math
import pickle
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refseg.data.formats.regions import paint
from refseg.errors import DataError

HEIGHT, WIDTH = 48, 64
LEADING_OUT = ("../x.jpg", "/etc/passwd", "C:\\x", "C:/x", "a/../../b", "a\\..\\..\\b", "\\\\server\\share\\x", "..")
"""File names that must not be followed."""
NO_NAMES = ("", " ", ".", "./", "a\0b", "x" * 256, "x/" * 600)


def square(left, top, side):
    """A polygon."""
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def square_mask(left, top, side, height=HEIGHT, width=WIDTH):
    """The mask of the square that `square` outlines."""
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def runs(mask):
    """A mask as uncompressed run lengths."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def compressed(mask):
    """The same as text, from pycocotools."""
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def save_image(path, height=HEIGHT, width=WIDTH, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def save_mask(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # some file systems are slow in overwriting a file
    path.write_bytes(content)
    return path


def write_json(path, value):
    return write(path, json.dumps(value).encode())


# ── Python 2's pickles ──


def python_2_pickle(value, protocol):
    """A pickle as Python 2 writes it. `bytes` in the value become byte strings, which Python 3 cannot write."""
    body = _protocol_2(value) if protocol == 2 else _protocol_0(value)
    return (b"\x80\x02" if protocol == 2 else b"") + body + b"."


def _protocol_2(value):
    if isinstance(value, bytes):
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, str):
        return b"X" + struct.pack("<i", len(value.encode())) + value.encode()
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_protocol_2, value)) + b"e"
    return b"}(" + b"".join(_protocol_2(key) + _protocol_2(one) for key, one in value.items()) + b"u"


def _protocol_0(value):
    if isinstance(value, bytes):
        text = "".join(chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in value)
        return f"S'{text}'\n".encode("ascii")
    if isinstance(value, str):
        return b"V" + value.encode("raw_unicode_escape") + b"\n"
    if isinstance(value, int):
        return f"I{value}\n".encode("ascii")
    if isinstance(value, list):
        return b"(l" + b"".join(_protocol_0(one) + b"a" for one in value)
    return b"(d" + b"".join(_protocol_0(key) + _protocol_0(one) + b"s" for key, one in value.items())


def as_python_2(value):
    """The same value with all texts as byte strings, in UTF-8."""
    if isinstance(value, dict):
        return {key.encode(): as_python_2(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_python_2(one) for one in value]
    return value.encode() if isinstance(value, str) else value


# ── REFER ──


def sentence(id, text, **changes):
    return {"sent_id": id, "sent": text, "raw": f"{text.capitalize()}!", "tokens": text.split()} | changes


def reference(id, ann_id, image_id=1, split="train", texts=None, **changes):
    sentences = [sentence(10 * id + n, text) for n, text in enumerate(texts or [f"cup {id}"])]
    values = {
        "ref_id": id,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "split": split,
        "file_name": f"COCO_train2014_{image_id:012}_{id}.jpg",
        "sent_ids": [one["sent_id"] for one in sentences],
        "sentences": sentences,
    }
    return values | changes


def annotation(id, segmentation, image_id=1, category_id=1, **changes):
    values = {
        "id": id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [0.0, 0.0, 9.0, 9.0],
        "area": 81.0,
        "iscrowd": 0,
        "segmentation": segmentation,
    }
    return values | changes


def image_name(image_id):
    return f"COCO_train2014_{image_id:012}.jpg"


def instances(annotations, images=(1, 2), **changes):
    values = {
        "info": {"description": "a set"},
        "licenses": [],
        "images": [
            {"id": id, "file_name": image_name(id), "height": HEIGHT, "width": WIDTH, "license": 3} for id in images
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}],
    }
    return values | changes


def write_refer(root, references, annotations, *, name="refcoco", file="refs(unc).p", protocol=2, **changes):
    """A set in REFER's layout below a root, without images."""
    folder = root / name
    write_json(folder / "instances.json", instances(annotations, **changes))
    if file.endswith(".json"):
        write_json(folder / file, references)
    elif protocol in ("python 2, protocol 0", "python 2, protocol 2"):
        write(folder / file, python_2_pickle(as_python_2(references), int(protocol[-1])))
    else:
        write(folder / file, pickle.dumps(references, protocol=protocol))
    return folder


# ── reading ──


def raise_problem(problem):
    """The report of a reader that stops at the first row that cannot be used."""
    raise DataError(str(problem))


def read(source):
    """All records; a row that cannot be used is an error."""
    return list(source.read(raise_problem))


def problems(source):
    """The problems, and the records of the rows that can be used."""
    found = []
    records = list(source.read(found.append))
    return found, records


def the_error(source):
    """The message of the first problem, which is one line."""
    with pytest.raises(DataError) as caught:
        read(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def painted(record, folder=None, **changes):
    height, width = record.size or (HEIGHT, WIDTH)
    return paint(record.parts, height, width, folder=folder, **changes)


# ── hostile values ──


def _deep(depth=200):
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = (None, True, -1, 10**30, 1e12, math.nan, "", "a\n\ud800", "../x", [], {}, [[None]], {"size": [9, 9]}, _deep())
"""Values that no reader expects; they are errors, or stand in a field that is not used."""


def spoilt(value: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a JSON value, in each of which one value is missing or replaced by a hostile one."""
    for path in _paths(value):
        for bad in HOSTILE:
            yield f"{path} is {str(bad)[:20]!r}", _replaced(value, path, bad)
        if isinstance(path[-1], str):
            yield f"{path} is missing", _replaced(value, path, None, remove=True)


def _paths(value: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if so_far:
        yield so_far
    inside: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(inside)[: None if isinstance(value, dict) else 2]:
        yield from _paths(one, (*so_far, key))


def _replaced(value: Any, path: tuple[Any, ...], new: Any, *, remove: bool = False) -> Any:
    changed = copy.deepcopy(value)
    at = changed
    for key in path[:-1]:
        at = at[key]
    if remove:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return changed


def survives(source):
    """Read a set with a hostile value: it is an error of one line, or its regions are painted."""
    message = ""
    try:
        problems(source)
        for record in read(source):
            json.dumps(record.parts, allow_nan=False)
            if all("file" not in part for part in record.parts):
                painted(record)
    except DataError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 700
    return not message


@pytest.fixture(scope="session")
def made():
    """All names of this file, which cannot be imported."""
    import types

    return types.SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("__")})

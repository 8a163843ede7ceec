"""Find the pixels that expressions mean in pictures.

For every picture and expression three files are written: NAME__000.png, the mask (0 or 255, at the picture's own size);
NAME__000_overlay.png, to look at; and NAME__000.json, with the expression verbatim, the score, the box and the mask as
COCO run lengths.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from refseg.errors import ExpressionError, InputError, OutputError

if TYPE_CHECKING:
    from PIL import Image

    from refseg.types import Prediction

__all__ = ["add_arguments", "run"]

STDIN = "-"
LONGEST_INPUT = 512 * 2**20
PICTURES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".tga", ".ico", ".avif"}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="IMAGE... EXPRESSION...", help=(
        "a picture (- reads it from stdin), perhaps more pictures, then expressions. The first argument is a picture; "
        "those after it are, as long as they are files or end as pictures do. An expression - reads expressions from "
        "stdin, one a line"
    ))
    parser.add_argument("--expressions", metavar="FILE", help="a text file of more expressions, one a line; - is stdin")
    parser.add_argument("--model", default="shapes", help=(
        "a zoo name, a model folder, or a Hub name such as user/name (default: shapes, the model that comes with the "
        "package; it knows generated scenes, not photos)"
    ))
    parser.add_argument("--out", default="predictions", metavar="DIR", type=Path, help="where to write (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--threshold", type=float, help="probability above which a pixel is meant (default: the model's)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    pictures, expressions = _sort_out(arguments.inputs, arguments.expressions)
    # What can be refused is refused before the seconds that PyTorch takes, and before anything is written.
    names = _names(pictures)
    with _writable(arguments.out):
        pass
    from refseg.inputs.image import read_image
    from refseg.inputs.text import check_expression
    from refseg.predictor import load
    from refseg.visualize import overlay

    for expression in expressions:
        check_expression(expression)
    predictor = load(arguments.model, arguments.device)
    results = []
    for picture, name in zip(pictures, names, strict=True):
        image = read_image(io.BytesIO(_stdin_bytes()) if picture == STDIN else picture)
        predictions = predictor.segment(predictor.encode(image), expressions, threshold=arguments.threshold)
        for index, prediction in enumerate(predictions):
            stem = f"{name}__{index:03d}"
            result = _describe(prediction, picture, arguments.model, stem)
            _write(arguments.out, stem, prediction, overlay(image, prediction.mask), result)
            results.append(result)
            if prediction.truncated:
                print(
                    f"refseg: {_short(prediction.expression)} is longer than the {predictor.tokenizer.word_length} "
                    "tokens that the model reads; its end was cut off",
                    file=sys.stderr,
                )
            if not arguments.json:
                found = "nothing fits" if prediction.empty else f"score {prediction.score:.2f}, box {prediction.box}"
                print(f"{_short(prediction.expression)}: {found} -> {arguments.out / stem}_overlay.png")
    if arguments.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    return 0


def _sort_out(inputs: Sequence[str], file: str | None) -> tuple[list[str], list[str]]:
    """Return pictures and expressions."""
    count = 1
    while count < len(inputs) and _is_picture(inputs[count]):
        count += 1
    pictures, words = list(inputs[:count]), list(inputs[count:])
    sources = [pictures.count(STDIN) > 0, STDIN in words, file == STDIN]
    if sum(sources) > 1 or pictures.count(STDIN) > 1 or words.count(STDIN) > 1:
        raise InputError("- stands for stdin, which can be read only once")
    expressions: list[str] = []
    for word in words:
        expressions += _lines(_stdin_bytes(), "stdin") if word == STDIN else [word]
    if file is not None:
        expressions += _lines(_stdin_bytes(), "stdin") if file == STDIN else _lines(_file_bytes(file), file)
    if not expressions:
        raise ExpressionError("no expression: say in words what to look for, such as 'the cup on the left'")
    return pictures, expressions


def _is_picture(argument: str) -> bool:
    try:
        return Path(argument).suffix.lower() in PICTURES or Path(argument).is_file()
    except (OSError, ValueError):  # too long for a file's name, or with a NUL
        return False


def _stdin_bytes() -> bytes:
    data = sys.stdin.buffer.read(LONGEST_INPUT + 1)
    if len(data) > LONGEST_INPUT:
        raise InputError(f"stdin holds more than {LONGEST_INPUT // 2**20} MiB")
    return data


def _file_bytes(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _lines(data: bytes, where: str) -> list[str]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 text (byte {error.start})") from None
    return [line for line in lines if line.strip()]


def _names(pictures: Sequence[str]) -> list[str]:
    """Return a name for each picture's files: its own, numbered where two pictures are called the same."""
    names: list[str] = []
    for picture in pictures:
        stem = name = "stdin" if picture == STDIN else Path(picture).stem or "picture"
        number = 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Make a folder and check that it can be written into."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            yield
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _describe(prediction: Prediction, picture: str, model: str, stem: str) -> dict[str, Any]:
    import numpy as np
    from pycocotools import mask as coco

    lengths = coco.encode(np.asfortranarray(prediction.mask.astype(np.uint8)))
    return {
        "image": picture,
        "expression": prediction.expression,
        "score": round(prediction.score, 6),
        "empty": prediction.empty,
        "box": None if prediction.box is None else list(prediction.box),
        "segmentation": {"size": [int(side) for side in lengths["size"]], "counts": lengths["counts"].decode("ascii")},
        "threshold": prediction.threshold,
        "truncated": prediction.truncated,
        "model": model,
        "mask": f"{stem}.png",
        "overlay": f"{stem}_overlay.png",
    }


def _write(folder: Path, stem: str, prediction: Prediction, shown: Image.Image, result: dict[str, Any]) -> None:
    """Write the three files of a result, each whole or not at all."""
    import numpy as np
    from PIL import Image

    mask = Image.fromarray(prediction.mask.astype(np.uint8) * 255)
    text = json.dumps(result, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    _put(folder / f"{stem}.png", lambda file: mask.save(file, "PNG"))
    _put(folder / f"{stem}_overlay.png", lambda file: shown.save(file, "PNG", compress_level=1))
    _put(folder / f"{stem}.json", lambda file: file.write(text))


def _put(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def _short(expression: str) -> str:
    shown = " ".join(expression.split())
    return repr(shown if len(shown) <= 60 else shown[:57] + "...")

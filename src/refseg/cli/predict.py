"""Find the pixels that expressions mean in images.

For every image and expression three files are written: NAME__000.png, the mask (0 or 255, at the image's own size);
NAME__000_overlay.png, to look at; and NAME__000.json, with the expression verbatim, the score, the box and the mask as
COCO run lengths.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg.errors import ConfigError, ExpressionError, InputError, OutputError

if TYPE_CHECKING:
    from PIL import Image

    from refseg.values import Prediction

__all__ = ["add_arguments", "run"]

STDIN = "-"
LONGEST_INPUT = 512 * 2**20
IMAGES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".tga", ".ico", ".avif"}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    # argparse knows one kind of positional argument that repeats; these are two.
    parser.usage = "%(prog)s [options] IMAGE [IMAGE ...] EXPRESSION [EXPRESSION ...]"
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE, EXPRESSION",
        help=(
            "a source_name (- reads it from stdin), perhaps more images, then expressions. The first argument is a "
            "source_name; those after it are, as long as they are files or end as images do. An expression - reads "
            "expressions from stdin, one a line"
        ),
    )
    parser.add_argument("--expressions", metavar="FILE", help="a text file of more expressions, one a line; - is stdin")
    parser.add_argument(
        "--model",
        default="shapes",
        help=(
            "a zoo name, a model folder, or a Hub name such as user/name (default: shapes, the model that comes with "
            "the package; it knows generated scenes, not photos)"
        ),
    )
    parser.add_argument(
        "--out", default="predictions", metavar="DIR", type=Path, help="where to write (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--threshold", type=float, help="probability above which a pixel is meant (default: the model's)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    # What can be refused is refused before the seconds that a model takes, and before anything is written.
    images, expressions = _sort_out(arguments.inputs, arguments.expressions)
    if arguments.threshold is not None and not 0 < arguments.threshold < 1:
        raise ConfigError(f"--threshold must lie between 0 and 1, got {arguments.threshold}")
    names = _names(images)
    _check_writable(arguments.out)
    from refseg.inputs.clip_bpe import check_expression
    from refseg.inputs.read import read_image
    from refseg.predictor import load
    from refseg.writers.overlay import overlay

    for expression in expressions:
        check_expression(expression)
    sources = [_source(source_name) for source_name in images]
    for source in sources:  # a broken source_name among many is refused before the first is worked on
        read_image(source)
    predictor = load(arguments.model, arguments.device)
    results = []
    for source_name, source, name in zip(images, sources, names, strict=True):
        image = read_image(source)
        predictions = predictor.segment(predictor.encode(image), expressions, threshold=arguments.threshold)
        for index, prediction in enumerate(predictions):
            stem = f"{name}__{index:03d}"
            result = _describe(prediction, source_name, arguments.model, stem)
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
        readable = getattr(sys.stdout, "encoding", "").lower() == "utf-8"
        print(json.dumps(results, indent=2, ensure_ascii=not readable))
    return 0


def _sort_out(inputs: Sequence[str], file: str | None) -> tuple[list[str], list[str]]:
    """Return images and expressions."""
    count = 1
    while count < len(inputs) and _is_image(inputs[count]):
        count += 1
    images, words = list(inputs[:count]), list(inputs[count:])
    sources = [images.count(STDIN) > 0, STDIN in words, file == STDIN]
    if sum(sources) > 1 or images.count(STDIN) > 1 or words.count(STDIN) > 1:
        raise InputError("- stands for stdin, which can be read only once")
    expressions: list[str] = []
    for word in words:
        expressions += _lines(_stdin_bytes(), "stdin") if word == STDIN else [word]
    if file is not None:
        expressions += _lines(_stdin_bytes(), "stdin") if file == STDIN else _lines(_file_bytes(file), file)
    if not expressions:
        raise ExpressionError("no expression: say in words what to look for, such as 'the cup on the left'")
    return images, expressions


def _is_image(argument: str) -> bool:
    try:
        return Path(argument).suffix.lower() in IMAGES or Path(argument).is_file()
    except (OSError, ValueError):  # too long for a file's name, or with a NUL
        return False


def _source(source_name: str) -> str | io.BytesIO:
    """Return what a source_name can be read from more than once: of stdin and pipes, their bytes."""
    if source_name == STDIN:
        return io.BytesIO(_stdin_bytes())
    try:
        return io.BytesIO(_file_bytes(source_name)) if Path(source_name).is_fifo() else source_name
    except OSError:  # too long for a file's name; the reader of images says so
        return source_name


def _stdin_bytes() -> bytes:
    if sys.stdin is None:
        raise InputError("stdin is closed, so that - has nothing to read")
    return _all_bytes(sys.stdin.buffer.read, "stdin")


def _file_bytes(file: str) -> bytes:
    try:
        with Path(file).open("rb") as opened:
            return _all_bytes(opened.read, file)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _all_bytes(read: Callable[[int], bytes], name: str) -> bytes:
    data = read(LONGEST_INPUT + 1)
    if len(data) > LONGEST_INPUT:
        raise InputError(f"{name} holds more than {LONGEST_INPUT // 2**20} MiB")
    return data


def _lines(data: bytes, where: str) -> list[str]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 text (byte {error.start})") from None
    return [line for line in lines if line.strip()]


def _names(images: Sequence[str]) -> list[str]:
    """Return a name for each source_name's files: its own, numbered where two images are called the same."""
    names: list[str] = []
    for source_name in images:
        stem = name = "stdin" if source_name == STDIN else Path(source_name).stem or "source_name"
        number = 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def _check_writable(folder: Path) -> None:
    """Make a folder and check that it can be written into."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _describe(prediction: Prediction, source_name: str, model: str, stem: str) -> dict[str, Any]:
    from refseg.data.formats.regions import encode

    return {
        "image": source_name,
        "expression": prediction.expression,
        "score": round(prediction.score, 6),
        "empty": prediction.empty,
        "box": None if prediction.box is None else list(prediction.box),
        "segmentation": encode(prediction.mask),
        "threshold": prediction.threshold,
        "truncated": prediction.truncated,
        "model": model,
        "mask": f"{stem}.png",
        "overlay": f"{stem}_overlay.png",
    }


def _write(folder: Path, stem: str, prediction: Prediction, shown: Image.Image, result: dict[str, Any]) -> None:
    """Write the three files of a result, all of them whole or none."""
    import numpy as np
    from PIL import Image

    mask = Image.fromarray(prediction.mask.astype(np.uint8) * 255)
    # File names may hold halves of characters, which UTF-8 cannot: written as JSON's escapes, they are read back.
    text = json.dumps(result, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as draft:
            mask.save(Path(draft, f"{stem}.png"))
            shown.save(Path(draft, f"{stem}_overlay.png"), compress_level=1)
            Path(draft, f"{stem}.json").write_bytes(text)
            for written in sorted(Path(draft).iterdir()):
                written.replace(folder / written.name)
    except OSError as error:
        raise OutputError(f"{folder / stem}.png: cannot be written: {error.strerror or error}") from None


def _short(expression: str) -> str:
    shown = " ".join(expression.split())
    return repr(shown if len(shown) <= 60 else shown[:57] + "...")

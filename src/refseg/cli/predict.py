"""Segment the regions of images that expressions refer to.

For each image and expression three files are written: NAME__000.png, the mask (0 or 255, at the image's own size);
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

from refseg.errors import ConfigError, ExpressionError, InputError, OutputError

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
            "an image (- reads it from stdin), perhaps more images, then expressions. The first argument is an image; "
            "further arguments are images as long as they are files or end like image files. An expression - reads "
            "expressions from stdin, one a line"
        ),
    )
    parser.add_argument("--expressions", metavar="FILE", help="a text file of more expressions, one a line; - is stdin")
    parser.add_argument(
        "--model",
        default="shapes",
        help=(
            "a name from `refseg models`, a model folder, or a Hub name such as user/name (default: shapes, the "
            "bundled model; it is trained on generated scenes, not on photos)"
        ),
    )
    parser.add_argument(
        "--out", default="predictions", metavar="DIR", type=Path, help="where to write (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--threshold",
        type=float,
        help="probability above which a pixel is in the mask (default: the model's own decision)",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    # All that can be checked is checked before the model is loaded and before anything is written.
    images, expressions = _sort_out(arguments.inputs, arguments.expressions)
    if arguments.threshold is not None and not 0 < arguments.threshold < 1:
        raise ConfigError(f"--threshold must lie between 0 and 1, got {arguments.threshold}")
    names = _names(images)
    from refseg.inputs.clip_bpe import check_expression
    from refseg.inputs.read import read_image
    from refseg.predictor import load
    from refseg.values import Decision
    from refseg.writers.result import describe, write_result

    for expression in expressions:
        check_expression(expression)
    sources = [_source(image) for image in images]
    for source in sources:
        read_image(source)
    _check_writable(arguments.out)
    segmenter = load(arguments.model, arguments.device)
    results = []
    for given, source, name in zip(images, sources, names, strict=True):
        image = read_image(source)
        (encoding,) = segmenter.encode([image])
        for index, prediction in enumerate(segmenter.segment(encoding, expressions)):
            if arguments.threshold is not None:
                prediction = prediction.decided_by(Decision(threshold=arguments.threshold))
            stem = f"{name}__{index:03d}"
            result = {
                "image": given,
                **describe(prediction),
                "model": arguments.model,
                "mask": f"{stem}.png",
                "overlay": f"{stem}_overlay.png",
            }
            write_result(arguments.out, stem, image, prediction, result)
            results.append(result)
            if prediction.truncated:
                print(
                    f"refseg: {_short(prediction.expression)} is longer than the model reads; its end was cut off",
                    file=sys.stderr,
                )
            if not arguments.json:
                found = "nothing fits" if prediction.empty else f"score {prediction.score:.2f}, box {prediction.box}"
                print(f"{_short(prediction.expression)}: {found} -> {arguments.out / stem}_overlay.png")
    if arguments.json:
        readable = getattr(sys.stdout, "encoding", "").lower() == "utf-8"
        print(json.dumps(results, indent=2, ensure_ascii=not readable, allow_nan=False))
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


def _source(image: str) -> str | io.BytesIO:
    """Return what an image can be read from more than once: of stdin and pipes, their bytes."""
    if image == STDIN:
        return io.BytesIO(_stdin_bytes())
    try:
        return io.BytesIO(_file_bytes(image)) if Path(image).is_fifo() else image
    except OSError:  # too long for a file's name; the reader of images says so
        return image


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
    """Return a name for each image's files: its own, numbered where two images are called the same."""
    names: list[str] = []
    for image in images:
        stem = name = "stdin" if image == STDIN else Path(image).stem or "image"
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


def _short(expression: str) -> str:
    shown = " ".join(expression.split())
    return repr(shown if len(shown) <= 60 else shown[:57] + "...")

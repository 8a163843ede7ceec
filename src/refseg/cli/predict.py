"""Segment the regions of images that expressions refer to.

The results of a run are in a folder of its own. For each image and expression there are a mask, IMAGE__000-WORDS.png
(0 or 255, at the image's own size), and IMAGE__000-WORDS_overlay.jpg, to look at. results.jsonl has a line of JSON for
each: the expression verbatim, the score, the box, the mask as COCO run lengths, the names of the files, and the model
with the runtime that computed it. If an image cannot be read, a line on stderr says so, the others are segmented, and
the exit code is 2.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.cli.options import add_device, add_model, add_precision, add_refine, add_runtime, model_name
from refseg.errors import EXIT_CODE, ConfigError, ExpressionError, ImageError, InputError

if TYPE_CHECKING:
    from PIL import Image

    from refseg.values import Prediction

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = 'refseg predict scene.png "the leftmost ring" "the blue star" --out rings'
STDIN = "-"
LONGEST_INPUT = 512 * 2**20
LONGEST_NAME = 100
"""Bytes of an image's name, and of an expression, in the name of a result: file systems take 255 in all."""
PHOTOS = "photos"
"""The domain of the models that know photos."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    # argparse knows one kind of positional argument that repeats; these are two.
    parser.usage = "%(prog)s [options] IMAGE [IMAGE ...] EXPRESSION [EXPRESSION ...]"
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE, EXPRESSION",
        help=(
            "an image, a folder of images, or - for an image on stdin; perhaps more of them, then expressions. The "
            "first argument is an image; further arguments are images as long as they are files, end like image "
            "files, or are folders and end with /. An expression - reads expressions from stdin, one a line"
        ),
    )
    parser.add_argument("--expressions", metavar="FILE", help="a text file of more expressions, one a line; - is stdin")
    add_model(parser, ", a small model in the package")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="a new or empty folder to write to (default: predictions, or predictions-2 and so on where it exists)",
    )
    parser.add_argument("--json", action="store_true", help="print each line of results.jsonl as it is written")
    parser.add_argument("--no-overlay", action="store_true", help="write no overlays")
    parser.add_argument(
        "--threshold",
        type=float,
        help="probability above which a pixel is in the mask (default: the model's own decision)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="the largest width times height of an image, against files that fill the memory (default: 100 million)",
    )
    add_refine(parser)
    add_device(parser)
    add_runtime(parser)
    add_precision(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    # All that can be checked is checked before the model is loaded and before anything is written.
    images, expressions = _sort_out(arguments.inputs, arguments.expressions)
    if arguments.threshold is not None and not 0 < arguments.threshold < 1:
        raise ConfigError(f"--threshold must lie between 0 and 1, got {arguments.threshold}")
    if arguments.max_pixels is not None and arguments.max_pixels < 1:
        raise ConfigError(f"--max-pixels must be at least 1, got {arguments.max_pixels}")
    import numpy as np

    from refseg.inputs.clip_bpe import check_expression
    from refseg.masks import MAX_PIXELS
    from refseg.predictor import load
    from refseg.writers.overlay import fitted
    from refseg.writers.result import OVERLAY_SIDE, ResultFolder, file_name

    for expression in expressions:
        check_expression(expression)
    max_pixels = arguments.max_pixels or MAX_PIXELS
    results = ResultFolder(arguments.out)
    words = [file_name(expression, LONGEST_NAME) for expression in expressions]
    broken: list[str] = []
    opened = _opened(images, max_pixels, broken)
    first = next(opened, None)  # a model is slow to load: not before there is an image to segment
    if first is None:
        return EXIT_CODE
    segmenter = load(
        arguments.model,
        arguments.device,
        runtime=arguments.runtime,
        precision=arguments.precision,
        refine=arguments.refine,
    )
    if segmenter.domain not in (None, PHOTOS):  # whether an image is a photo is not guessed
        _tell(f"note: the model {arguments.model} is trained on {segmenter.domain}; on photos its masks mean nothing")
    computed = {"model": model_name(arguments), "runtime": segmenter.runtime_name}
    for given, name, image in itertools.chain([first], opened):
        (encoding,) = segmenter.encode([np.asarray(image)])
        shown = None if arguments.no_overlay else fitted(image, OVERLAY_SIDE)
        for index, prediction in enumerate(segmenter.segment(encoding, expressions)):
            if arguments.threshold is not None:
                prediction = prediction.decided_by(prediction.decision.at(arguments.threshold))
            about = {"image": given, **prediction.to_dict(), **computed}
            about = results.add(f"{name}__{index:03d}-{words[index]}", prediction.mask, shown, about)
            if prediction.truncated:
                _tell(f"{_short(prediction.expression)} is longer than the model reads; its end was cut off")
            if arguments.json:
                readable = getattr(sys.stdout, "encoding", "").lower() == "utf-8"
                print(json.dumps(about, ensure_ascii=not readable, allow_nan=False), flush=True)
            else:
                print(_line(prediction, results.folder / (about["overlay"] or about["mask"])), flush=True)
    return EXIT_CODE if broken else 0


def _opened(images: Sequence[str], max_pixels: int, broken: list[str]) -> Iterator[tuple[str, str, Image.Image]]:
    """Yield each image as it was given, with its name in the results and its pixels; add those that are `broken`."""
    from refseg.inputs.read import read_image

    for given, name in zip(images, _names(images), strict=True):
        try:
            image = read_image(_source(given), max_pixels=max_pixels)
        except InputError as error:
            broken.append(given)
            _tell(str(error))
        else:
            yield given, name, image


def _tell(line: str) -> None:
    print(f"refseg: {line}", file=sys.stderr)


def _line(prediction: Prediction, file: Path) -> str:
    found = "nothing fits" if prediction.empty else f"score {prediction.score:.2f}, box {prediction.box}"
    return f"{_short(prediction.expression)}: {found} -> {file}"


def _sort_out(inputs: Sequence[str], file: str | None) -> tuple[list[str], list[str]]:
    """Return images and expressions."""
    count = 1
    while count < len(inputs) and _is_image(inputs[count]):
        count += 1
    given, words = inputs[:count], inputs[count:]
    sources = [STDIN in given, STDIN in words, file == STDIN]
    if sum(sources) > 1 or given.count(STDIN) > 1 or words.count(STDIN) > 1:
        raise InputError("- stands for stdin, which can be read only once")
    expressions: list[str] = []
    for word in words:
        expressions += _lines(_stdin_bytes(), "stdin") if word == STDIN else [word]
    if file is not None:
        expressions += _lines(_stdin_bytes(), "stdin") if file == STDIN else _lines(_file_bytes(file), file)
    if not expressions:
        raise ExpressionError("no expression: say in words what to look for, such as 'the cup on the left'")
    return [image for one in given for image in _images_in(one)], expressions


def _is_image(argument: str) -> bool:
    from refseg.inputs.read import image_suffixes

    try:
        path = Path(argument)
        if argument.endswith("/") and path.is_dir():  # without the slash it may be an expression
            return True
        return path.suffix.lower() in image_suffixes() or path.is_file()
    except (OSError, ValueError):  # too long for a file's name, or with a NUL
        return False


def _images_in(argument: str) -> list[str]:
    """Return the images that an argument names: those of a folder, or one."""
    from refseg.inputs.read import image_suffixes

    try:
        if argument == STDIN or not Path(argument).is_dir():
            return [argument]
        files = sorted(Path(argument).iterdir())
    except ValueError:  # with a NUL; the reader of images says so
        return [argument]
    except OSError as error:
        raise ImageError(f"{argument!r} cannot be read: {error.strerror or error}") from None
    images = [str(file) for file in files if file.suffix.lower() in image_suffixes() and file.name[0] != "."]
    if not images:
        raise ImageError(f"{argument!r} is a folder without images; name an image or a folder of images")
    return images


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
    from refseg.writers.result import file_name

    names: list[str] = []
    taken: set[str] = set()
    for image in images:
        stem = name = "stdin" if image == STDIN else file_name(Path(image).stem, LONGEST_NAME)
        for number in itertools.count(2):
            if name.casefold() not in taken:  # some file systems do not tell the cases apart
                break
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _short(expression: str) -> str:
    shown = " ".join(expression.split())
    return repr(shown if len(shown) <= 60 else shown[:57] + "...")

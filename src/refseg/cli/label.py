"""Label your own photos with the masks of a model, for other tools or to train another model on.

--out is a data folder of its own: data.jsonl names each image, expression and mask. Each format of --to is in a folder
of its name beside it; all keep the expressions verbatim. review.csv lists low scores and expressions that nothing
fits, contact.jpg shows some masks, and summary.json has the counts. The same command goes on where an interrupted one
stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from refseg.cli.options import add_device, add_model, add_precision, add_refine, add_runtime
from refseg.errors import counted
from refseg.writers.formats import FORMATS

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg label my-photos --expressions words.txt --to coco labelme --out labelled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="a folder of photos, with --expressions; or a folder of your own data, whose rows need no masks",
    )
    parser.add_argument(
        "--expressions",
        type=Path,
        metavar="FILE",
        help="a text file of expressions, one a line, asked of every photo; or a table (.csv, .tsv, .jsonl) with the "
        "columns image and expression",
    )
    parser.add_argument(
        "--to",
        nargs="+",
        action="extend",
        default=[],
        metavar="FORMAT",
        help=f"formats of other tools: {', '.join(FORMATS)} (default: none)",
    )
    add_model(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the data folder to write, or to go on with"
    )
    parser.add_argument(
        "--min-score", type=float, default=0.0, metavar="S", help="leave out masks of a lower score (default: none)"
    )
    parser.add_argument(
        "--review-below",
        type=float,
        default=0.5,
        metavar="S",
        help="list masks of a lower score in review.csv (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-absent", action="store_true", help="keep expressions that, by the model, nothing in the photo fits"
    )
    parser.add_argument(
        "--separate", action="store_true", help="in --to, make each connected part of a mask an object of its own"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="SIDE",
        help="ask large photos in overlapping tiles of SIDE pixels, and merge the masks (default: the whole photo)",
    )
    parser.add_argument("--copy", action="store_true", help="copy the photos; otherwise the new folder links to them")
    add_refine(parser)
    add_device(parser)
    add_runtime(parser)
    add_precision(parser)
    parser.epilog = (
        "Answers are kept in labels.jsonl: another --min-score, --to or --separate does not ask the model again.\n"
        "A format's folder that was corrected by hand is not replaced; `refseg data convert` reads it back."
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from refseg.data.asked import asked_by_file, asked_of_each
    from refseg.data.formats.record import NOTE, Problem
    from refseg.data.label import check_settings, label, labeller
    from refseg.predictor import load

    folder, problems = arguments.folder, list[Problem]()
    formats = list(dict.fromkeys(arguments.to))
    check_settings(folder, arguments.out, formats, arguments.min_score, arguments.review_below, arguments.tile)
    if arguments.expressions is None:
        photos = asked_of_each(folder, problems)
    else:
        photos = asked_by_file(folder, arguments.expressions, problems)
    segmenter = load(  # slow: after all that can be checked without it
        arguments.model,
        arguments.device,
        runtime=arguments.runtime,
        precision=arguments.precision,
        refine=arguments.refine,
    )
    by = labeller(arguments.model, arguments.refine, segmenter, arguments.tile)
    labels = label(
        segmenter,
        by,
        folder,
        photos,
        arguments.out,
        problems=problems,
        formats=formats,
        least=arguments.min_score,
        review_below=arguments.review_below,
        keep_absent=arguments.keep_absent,
        separate=arguments.separate,
        copy=arguments.copy,
        progress=sys.stderr.isatty(),
    )
    problems = [one for one in labels.problems if one.kind != NOTE]
    if problems:
        left_out = counted(len(problems), "problem")
        print(f"refseg: note: {left_out} left photos or rows out, the first is {problems[0]}", file=sys.stderr)
    print(f"{counted(labels.photos, 'photo')}, {counted(labels.masks, 'mask')} by {by.name} ({by.licence})")
    print(f"kept as fitting nothing: {labels.absent:,}; left out: {labels.below:,} below the score, ", end="")
    print(f"{labels.nothing_fits:,} that nothing fits; ", end="")
    if labels.reviewed:
        print(f"reviewed: {labels.reviewed:,}, of which dropped: {labels.dropped:,}; ", end="")
    print(f"to review: {labels.review:,} -> {arguments.out}")
    return 0

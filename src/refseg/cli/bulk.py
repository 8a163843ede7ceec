"""Answer expressions on many images, on all cores or GPUs of this machine or of a Ray cluster.

SOURCE is a folder of images, a file of JSON lines, or tables in Parquet or tar shards (WebDataset), one or a folder of
them. SINK is a folder with a shard of answers for each of the source, and a table of the inputs that could not be
answered. The same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from refseg.cli.options import add_model, add_precision, add_refine, add_runtime
from refseg.errors import ConfigError, counted
from refseg.masks import MAX_PIXELS

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg bulk my-photos answers --expressions words.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="a folder, a file .jsonl, .parquet, .tar, .tgz or .tar.gz"
    )
    parser.add_argument("sink", type=Path, metavar="SINK", help="the folder to write, or to go on with")
    parser.add_argument(
        "--expressions",
        type=Path,
        metavar="FILE",
        help="a text file of expressions, one a line, asked of every image; for a folder of images also a table (.csv, "
        ".tsv, .jsonl) with the columns image and expression (default: what each row of SOURCE asks itself)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the folder that the names of images in JSON lines and tables are relative to (default: that of SOURCE)",
    )
    parser.add_argument(
        "--to",
        choices=("parquet", "tar"),
        default="parquet",
        help="a table with a row for each answer, or tar shards with the images and their answers (default: parquet)",
    )
    add_model(parser)
    add_refine(parser)
    add_runtime(parser)
    add_precision(parser)
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: each process has a GPU of its own (default: cpu)",
    )
    work = parser.add_argument_group("processes; they change no answer")
    work.add_argument(
        "--address", metavar="ADDRESS", help="of a Ray cluster, such as auto or 10.0.0.1:6379 (default: this machine)"
    )
    work.add_argument(
        "--workers", type=int, metavar="N", help="processes, each with a model (default: as cores or GPUs allow)"
    )
    work.add_argument("--threads", type=int, default=1, metavar="N", help="cores of a process (default: 1)")
    work.add_argument(
        "--batch", type=int, default=1, metavar="N", help="images encoded together, for GPUs (default: 1)"
    )
    parser.add_argument(
        "--shard", type=int, default=256, metavar="N", help="images or lines of a shard (default: %(default)s)"
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="of an image, width times height; larger ones are not answered (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from refseg.bulk.compute import Limits
    from refseg.bulk.listing import list_source
    from refseg.bulk.run import Job, Workers, run
    from refseg.bulk.sink import FAILED, Sink

    source, sink = arguments.source.resolve(), arguments.sink.resolve()
    if sink.is_relative_to(source):
        raise ConfigError(f"{arguments.sink}: lies within the source; name a folder elsewhere")
    workers = Workers(threads=arguments.threads, count=arguments.workers, address=arguments.address)
    limits = Limits(
        max_pixels=arguments.max_pixels,
        batch=arguments.batch,
        readers=arguments.threads if arguments.device == "cuda" else 0,
    )
    images = None if arguments.images is None else arguments.images.resolve()
    listing = list_source(source, arguments.expressions, images, arguments.shard)
    job = Job(
        sink=Sink(sink, arguments.to),
        asked=listing.asked,
        model=arguments.model,
        device=arguments.device,
        runtime=arguments.runtime,
        precision=arguments.precision,
        refine=arguments.refine,
        limits=limits,
    )
    counts = run(listing, job, workers, progress=sys.stderr.isatty())
    print(f"{counted(counts.images, 'image')}, {counted(counts.masks, 'mask')}, ", end="")
    print(f"{counted(counts.nothing_fits, 'answer')} that nothing fits, {counts.failed:,} failed -> {arguments.sink}")
    if counts.failed:
        print(f"refseg: note: the reasons are in {arguments.sink / FAILED}", file=sys.stderr)
    return 0

"""Decide on the labels of a run of `refseg label` in the browser: keep, drop, fix the threshold, or reword.

Each verdict is at once in verdicts.jsonl in the folder of the run: stop at any time, and give the same command to go
on. The button "Write labels", or --write, writes data.jsonl and the formats of the run anew. Only this machine can
connect, unless --host says otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from refseg.cli.address import add_address, announced, check_server, server_token
from refseg.cli.options import add_device, add_runtime
from refseg.errors import counted

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg review labelled"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder that `refseg label --out` wrote")
    parser.add_argument(
        "--write", action="store_true", help="write the labels by the verdicts so far, and do not open the page"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="where the model of the run is now (default: where it was for the run)"
    )
    add_device(parser)
    add_runtime(parser)
    add_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    check_server()
    from refseg.review.queue import Queue

    queue = Queue(arguments.folder)
    if arguments.write:
        written = queue.write()
        print(f"{counted(written.masks, 'mask')}, {written.dropped:,} dropped, ", end="")
        print(f"{written.reviewed:,} reviewed; to review: {written.review:,} -> {arguments.folder}")
        return 0
    from refseg.review.run import review_settings, serve_review
    from refseg.serve.run import listen

    settings = review_settings(
        queue,
        model=arguments.model,
        device=arguments.device,
        runtime=arguments.runtime,
        token=server_token(arguments.token_file),
    )
    listening = listen(arguments.host, arguments.port)
    print(announced(listening), flush=True)
    serve_review(queue, arguments.host, settings, listening)
    return 0

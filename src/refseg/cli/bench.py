"""Measure models on this machine: latency and throughput, memory, size, load time, and operations.

Each model is measured in a process of its own, for each runtime and precision. Latency is the median time from
expressions to masks and scores about an image that is encoded; throughput counts the encoding of the image too. The
peak is that of a product of two large matrices on the same device in the same precision. Operations are counted by
PyTorch: for another runtime, measure the model in PyTorch too. No expression is asked twice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.cli.options import add_device
from refseg.errors import ConfigError

if TYPE_CHECKING:
    from refseg.bench import Bench
    from refseg.writers.table import Table

__all__ = ["EXAMPLE", "add_arguments", "run"]

GRAPH_RUNTIMES = ("onnx", "openvino")
EXAMPLE = "refseg bench shapes --runtime onnx --expressions 1 --rounds 2 --out bench.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="a name from `refseg models`, a model folder, or a Hub name"
    )
    parser.add_argument(
        "--runtime",
        nargs="+",
        choices=("torch", *GRAPH_RUNTIMES),
        default=["torch"],
        help="PyTorch, or ONNX Runtime or OpenVINO for models that have graphs (default: torch)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("exact", "fast"),
        default=["exact"],
        help="of PyTorch: exact is float32, fast multiplies bfloat16; if both are given, the IoU of their masks is "
        "printed (default: exact)",
    )
    parser.add_argument(
        "--expressions",
        nargs="+",
        type=int,
        metavar="N",
        default=[1, 16, 64],
        help="the numbers of expressions in a call (default: 1 16 64)",
    )
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="of each measurement (default: 5)")
    parser.add_argument("--image", type=Path, metavar="FILE", help="that is asked about (default: a generated scene)")
    parser.add_argument("--compile", action="store_true", help="compile models in PyTorch first, which takes minutes")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all figures there as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a page with the table and a chart, as HTML")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    if min(arguments.rounds, *arguments.expressions) < 1:
        raise ConfigError("--rounds and --expressions must be at least 1")
    from refseg.bench import machine, measure_apart, with_operations
    from refseg.data.shapes import EXAMPLE as SCENE
    from refseg.files import write_text
    from refseg.masks import agreement
    from refseg.writers.table import aligned

    kinds = [("torch", precision) for precision in arguments.precision] if "torch" in arguments.runtime else []
    kinds += [(name, "exact") for name in GRAPH_RUNTIMES if name in arguments.runtime]
    found: dict[tuple[str, str, str], Bench] = {}
    for model in dict.fromkeys(arguments.models):
        for runtime, precision in dict.fromkeys(kinds):
            found[model, runtime, precision] = measure_apart(
                model,
                image=arguments.image or SCENE,
                expressions=arguments.expressions,
                rounds=arguments.rounds,
                runtime=runtime,
                precision=precision,
                device=arguments.device,
                compiled=arguments.compile and runtime == "torch",
            )
    for (model, runtime, precision), one in found.items():
        counted = next((found[key] for key in found if key[:2] == (model, "torch")), None)
        if runtime != "torch" and counted is not None:
            found[model, runtime, precision] = with_operations(one, counted)
    table = _table(list(found.values()))
    print(aligned(table), end="")
    agreements = {
        model: agreement(found[model, "torch", "exact"].masks, one.masks)
        for (model, _, precision), one in found.items()
        if precision == "fast" and (model, "torch", "exact") in found
    }
    for model, iou in agreements.items():
        print(f"{model}: mean IoU of the masks of fast with those of exact: {iou:.4f}")
    if arguments.out is not None:
        results = {
            "machine": machine(),
            "results": [one.to_dict() for one in found.values()],
            "iou_of_fast_with_exact": agreements,
        }
        write_text(arguments.out, json.dumps(results, indent=2) + "\n")
    if arguments.plot is not None:
        write_text(arguments.plot, _page(table, list(found.values()), machine()))
    return 0


def _table(benches: list[Bench]) -> Table:
    from refseg.writers.table import Table

    columns = (
        "model",
        "MB",
        "load s",
        "memory MiB",
        "encode ms",
        "expressions",
        "latency ms",
        "a second",
        "GFLOP",
        "peak",
    )
    rows = []
    for one in benches:
        for number, speed in enumerate(one.segment):
            about = (
                _name(one),
                _figure(one.megabytes, "{:.1f}"),
                f"{one.load_seconds:.2f}",
                _figure(one.peak_memory, "{:.0f}"),
                f"{1000 * one.encode.latency:.1f}",
            )
            gflop = None if speed.operations is None else speed.operations / 1e9
            rows.append(
                (
                    *(about if number == 0 else ("",) * len(about)),
                    str(speed.expressions),
                    f"{1000 * speed.latency:.1f}",
                    f"{one.throughput(speed):.2f}",
                    _figure(gflop, "{:.2f}"),
                    _figure(one.share_of_peak(speed), "{:.0%}"),
                )
            )
    return Table(columns=columns, rows=tuple(rows), caption="Speed", right=frozenset(range(1, len(columns))))


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _name(one: Bench) -> str:
    return f"{one.model}, {one.runtime} {one.precision}, {one.device}"


def _page(table: Table, benches: list[Bench], about: dict[str, object]) -> str:
    from refseg.report.charts import throughput_curves
    from refseg.report.page import page
    from refseg.report.page import table as as_html
    from refseg.writers.html import paragraph

    curves = {_name(one): [one.throughput(speed) for speed in one.segment] for one in benches}
    counts = [speed.expressions for speed in benches[0].segment]
    line = ", ".join(f"{key} {value}" for key, value in about.items())
    return page("Speed of models", [throughput_curves(counts, curves), as_html(table), paragraph(line)])

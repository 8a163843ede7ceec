"""Fetch, check, describe, convert and show data sets."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from refseg.cli.outputs import check_outputs, result_files
from refseg.errors import ConfigError, DataError, UnknownNameError, counted
from refseg.writers.table import Table, aligned

if TYPE_CHECKING:
    from refseg.data.dataset import DataSet
    from refseg.data.leak import Images, Leak
    from refseg.evaluation.result import Result

__all__ = ["EXAMPLE", "add_arguments", "parse", "run"]

VERBS: MappingProxyType[str, str] = MappingProxyType(
    {
        "prepare": "fetch a public data set, and only the images that are needed",
        "check": "find faulty rows, images, masks and expressions before training",
        "stats": "count images, references and expressions, with their lengths and mask areas",
        "leak": "find the images of a split that a model was trained on",
        "show": "draw some samples: images, masks and expressions",
        "describe": "generate referring expressions for photos whose objects have masks and names",
        "convert": "read labels of COCO, CVAT, YOLO, LabelMe or Label Studio into a folder of your own data",
    }
)
EXAMPLES: MappingProxyType[str, str] = MappingProxyType(
    {
        "prepare": "refseg data prepare refcoco --data datasets --split testA",
        "check": "refseg data check my-data",
        "stats": "refseg data stats my-data --plot sizes.svg",
        "leak": "refseg data leak my-data:all --against trained.txt",
        "show": "refseg data show my-data --n 8 --out samples.png",
        "describe": "refseg data describe my-photos --out described",
        "convert": "refseg data convert labelled/labelme --images my-photos --out corrected",
    }
)
EXAMPLE = EXAMPLES["show"]
WORD_LENGTH = 17
LISTS = (".txt", ".json", ".jsonl", ".csv", ".tsv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: those of each of its verbs."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="VERB")
    verbs.type = str  # the arguments after the verb pass through it unchanged: the verb's own parser checks them
    added = {}
    for verb, help in VERBS.items():
        description = f"{help[0].upper()}{help[1:]}."
        added[verb] = verbs.add_parser(
            verb,
            help=help,
            description=description,
            epilog=f"example:\n  {EXAMPLES[verb]}",
            formatter_class=parser.formatter_class,
        )
    _add_prepare(added["prepare"])
    _add_check(added["check"])
    _add_stats(added["stats"])
    _add_leak(added["leak"])
    _add_show(added["show"])
    _add_describe(added["describe"])
    _add_convert(added["convert"])


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; argparse cannot mix options with the verbs of a command.

    Raises:
        UnknownNameError: there is no such verb.
    """
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        raise UnknownNameError("command", f"data {words[0]}", [f"data {verb}" for verb in VERBS])
    return parser.parse_args(words)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    verbs = {
        "prepare": _prepare,
        "check": _check,
        "stats": _stats,
        "leak": _leak,
        "show": _show,
        "describe": _describe,
        "convert": _convert,
    }
    return verbs[arguments.action](arguments)


def _add_data(parser: argparse.ArgumentParser, *, whole: bool = True) -> None:
    if whole:
        parser.add_argument(
            "dataset",
            metavar="DATASET[:SPLIT]",
            help="such as refcoco, refcoco:testA, or the folder of your own data; all splits, if none is named",
        )
    else:
        parser.add_argument("dataset", metavar="DATASET:SPLIT", help="such as refcoco:testA, or my-folder:test")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the folder that holds the public data sets")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of the images, if not with the data")
    parser.add_argument("--text-field", choices=("sent", "raw"), help="which form of a sentence (default: sent)")


def _add_word_length(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--words",
        type=int,
        default=WORD_LENGTH,
        metavar="N",
        help="tokens that the model reads of an expression, start and end included (default: %(default)s; 22 is usual "
        "for RefCOCOg)",
    )


def _whole(data: str) -> str:
    """Return `NAME:SPLIT`, with the split `all` if only a name is given."""
    return f"{data}:all" if ":" not in data or Path(data).exists() else data


def _open(arguments: argparse.Namespace, dataset: str, text_field: str | None = None) -> DataSet:
    from refseg.data.catalogue import open_data

    text_field = arguments.text_field or text_field or "sent"
    data = open_data(dataset, arguments.data, text_field=text_field, images=arguments.images)
    for note in data.notes():
        print(f"refseg: note: {note}", file=sys.stderr)
    return data


def _as_json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    """Return a value with null in place of numbers that JSON does not have: NaN and infinities."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ── prepare ──


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="refcoco, refcoco+, refcocog-umd, refcocog-google, refclef, ...")
    parser.add_argument(
        "--data", type=Path, metavar="ROOT", required=True, help="the folder that holds, or shall hold, all data sets"
    )
    parser.add_argument(
        "--split", nargs="+", action="extend", default=[], metavar="SPLIT", help="only the images of these splits"
    )
    parser.add_argument("--no-images", action="store_true", help="only the annotations")
    parser.add_argument(
        "--mirror", nargs="+", action="extend", default=[], metavar="URL", help="folders to try first for the archives"
    )
    parser.add_argument("--image-url", metavar="URL", help="a folder that holds COCO's images (default: COCO's own)")
    parser.add_argument(
        "--sha256", nargs="+", action="extend", default=[], metavar="FILE=SUM", help="checksums of archives, if known"
    )
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="images fetched at a time (default: 8)")


def _prepare(arguments: argparse.Namespace) -> int:
    from refseg.data.catalogue import DATA_SETS, image_files
    from refseg.data.prepare import LOCK_FILE, prepare
    from refseg.data.sources import CATALOGUE, COCO_IMAGES

    name, splits = arguments.name, tuple(dict.fromkeys(arguments.split))
    archive = name if name in CATALOGUE else name.rpartition("-")[0]
    if archive not in CATALOGUE or name not in {*CATALOGUE, *DATA_SETS}:
        if name in DATA_SETS:
            raise DataError(f"{name} cannot be fetched by refseg; put its authors' files into {arguments.data / name}")
        fetched = (one for one in DATA_SETS if one in CATALOGUE or one.rpartition("-")[0] in CATALOGUE)
        raise UnknownNameError("data set", name, {*CATALOGUE, *fetched})
    if splits and name not in DATA_SETS:
        several = " or ".join(one for one in DATA_SETS if one.startswith(f"{name}-"))
        raise DataError(f"{name} was split in several ways; to name splits, say {several}")
    for split in splits:
        if split not in DATA_SETS[name].splits:
            raise UnknownNameError("split", split, DATA_SETS[name].splits)
    sums = dict(_checksum(one) for one in arguments.sha256)
    report = prepare(
        archive,
        arguments.data,
        splits=splits,
        images=not arguments.no_images,
        image_url=arguments.image_url or COCO_IMAGES,
        mirrors=arguments.mirror,
        sha256=sums,
        workers=arguments.workers,
        progress=sys.stderr.isatty(),
        needed=partial(image_files, name, splits=splits) if name in DATA_SETS else None,
    )
    for one in report.unverified:
        print(
            f"refseg: note: no checksum of {one} is known; that of the fetched file is in {arguments.data / LOCK_FILE}",
            file=sys.stderr,
        )
    if report.missing:
        missing = counted(len(report.missing), "needed image is", "needed images are")
        print(f"refseg: note: {missing} missing from the archives, the first is {report.missing[0]}", file=sys.stderr)
    print(f"{name}: fetched {counted(report.fetched, 'file')} ({report.size / 1e6:,.1f} MB), kept {report.kept:,}")
    return 0


def _checksum(text: str) -> tuple[str, str]:
    file, equals, digest = text.partition("=")
    if not (file and equals and digest):
        raise ConfigError(f"--sha256 {text}: write FILE=SUM, such as refcoco.zip=0123...")
    return file, digest


# ── check ──


def _add_check(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    _add_word_length(parser)
    parser.add_argument("--quick", action="store_true", help="do not decode images, and paint no masks")
    parser.add_argument("--rows", type=int, default=20, metavar="N", help="lines of each kind (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    exit_code = "The exit code is 1 where there are errors, 0 where there are none, 2 where nothing can be read."
    parser.epilog = f"{exit_code}\n\n{parser.epilog}"


def _check(arguments: argparse.Namespace) -> int:
    if arguments.rows < 1:
        raise ConfigError(f"--rows must be at least 1, got {arguments.rows}")
    from refseg.data.catalogue import find, split_name
    from refseg.data.check import check, table

    name, split = split_name(_whole(arguments.dataset))
    text_field = arguments.text_field or "sent"
    seen: Counter[str] = Counter()
    findings = check(
        name,
        arguments.data,
        split=split,
        images=arguments.images,
        text_field=text_field,
        word_length=arguments.words,
        quick=arguments.quick,
        progress=sys.stderr.isatty(),
        seen=seen,
    )
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    if arguments.json:
        problems = [asdict(finding) for finding in findings]
        _as_json({"name": name, "split": split, **seen, "errors": errors, "warnings": warnings, "problems": problems})
        return int(errors > 0)
    if findings:
        print(table(findings, most=arguments.rows, folder=find(name, arguments.data, text_field=text_field).folder))
    totals = ", ".join(counted(seen[f"{one}s"], one) for one in ("image", "reference", "expression"))
    print(f"{name}:{split}: {counted(errors, 'error')} and {counted(warnings, 'warning')} in {totals}")
    return int(errors > 0)


# ── stats ──


def _add_stats(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    _add_word_length(parser)
    parser.add_argument("--masks", action="store_true", help="also paint all masks, for their areas")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write histograms there, as SVG")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a Markdown table")


def _stats(arguments: argparse.Namespace) -> int:
    check_outputs({"--plot": arguments.plot})
    if arguments.plot is not None and arguments.plot.suffix.lower() != ".svg":
        raise ConfigError(f"--plot {arguments.plot}: the plot is an SVG; let its name end with .svg")
    data = _open(arguments, _whole(arguments.dataset))
    from refseg.data.statistics import markdown, plot, statistics

    figures = statistics(data, word_length=arguments.words, masks=arguments.masks, progress=sys.stderr.isatty())
    if arguments.plot is not None:
        from refseg.files import write_text

        write_text(arguments.plot, plot(figures))
    if arguments.json:
        _as_json(figures)
    else:
        print(markdown(figures), end="")
    return 0


# ── leak ──


def _add_leak(parser: argparse.ArgumentParser) -> None:
    _add_data(parser, whole=False)
    parser.add_argument(
        "--against",
        nargs="+",
        action="extend",
        required=True,
        metavar="WHAT",
        help="images that a model was trained on: a file of ids or names (text, a table with a column `image` "
        "or `image_id`, .json, .jsonl), a folder of images, another DATASET:SPLIT, or coco-train2014, coco-val2014, "
        "coco-train2017; images are compared by name",
    )
    parser.add_argument(
        "--result", type=Path, metavar="FILE", help="a result of `refseg evaluate`: score its clean part by itself"
    )
    parser.add_argument("--ids", type=Path, metavar="FILE", help="write the ids of those images there, one a line")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")


def _leak(arguments: argparse.Namespace) -> int:
    check_outputs({"--ids": arguments.ids}, result_files("--result", arguments.result))
    result, text_field = None, None
    if arguments.result is not None:
        from refseg.evaluation.clean import protocol_of
        from refseg.evaluation.result import load_result

        result = load_result(arguments.result)
        text_field = protocol_of(result).text_field
    data = _open(arguments, arguments.dataset, text_field)
    if result is not None:
        from refseg.evaluation.clean import check_same_data

        check_same_data(result, data)
    from refseg.data.leak import find_leaks

    leaks = find_leaks(data, [_listed(one, data, arguments) for one in dict.fromkeys(arguments.against)])
    if arguments.ids is not None:
        from refseg.files import write_text

        write_text(arguments.ids, "".join(f"{id}\n" for id in sorted(leaks[-1].images)))
    _tell_leaks(arguments, data, leaks, result)
    return 0


def _listed(what: str, data: DataSet, arguments: argparse.Namespace) -> Images:
    from refseg.data.catalogue import is_data_set
    from refseg.data.leak import COCO_PARTS, coco_part, images_in, images_of, read_list

    path = Path(what)
    if what in COCO_PARTS:
        return coco_part(what, data)
    if path.is_file():
        return read_list(path)
    if path.is_dir() and not is_data_set(path):
        return images_in(path)
    if path.suffix.lower() in LISTS and ":" not in what:
        raise DataError(f"{path}: no such file")
    return images_of(_open(arguments, what))


def _tell_leaks(arguments: argparse.Namespace, data: DataSet, leaks: list[Leak], result: Result | None) -> None:
    counts = data.totals()
    scores = None
    if result is not None:
        from refseg.evaluation.clean import score_parts

        scores = score_parts(result, leaks[-1].images)
    if arguments.json:
        told = [
            {
                "against": leak.against,
                "listed": leak.listed,
                "images": len(leak.images),
                "references": leak.references,
                "expressions": leak.expressions,
                "ids": sorted(leak.images),
            }
            for leak in leaks
        ]
        figures: dict[str, Any] = {"name": data.name, "split": data.split, **counts, "leaks": told}
        _as_json(figures if scores is None else {**figures, "scores": scores})
        return
    rows = [[f"{data.name}:{data.split} in", "images", "references", "expressions"]]
    for leak in leaks:
        found = {"images": len(leak.images), "references": leak.references, "expressions": leak.expressions}
        name = leak.against if leak.listed is None else f"{leak.against} ({counted(leak.listed, 'image')})"
        rows.append([name, *(_share(found[what], counts[what]) for what in rows[0][1:])])
    print(aligned(_numbers(rows)), end="")
    if scores is not None:
        names = ("images", "expressions", "mean IoU", "overall IoU", "Pr@0.5", "95 % of mean IoU")
        print("\n" + aligned(_numbers([["score of", *names], *(_score_row(*one) for one in scores.items())])), end="")


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})"


def _score_row(name: str, figures: dict[str, Any]) -> list[str]:
    values = (figures["mean_iou"], figures["overall_iou"], figures["precision"].get("0.5"))
    edges = figures["intervals"].get("mean_iou")
    return [
        name,
        f"{figures['images']:,}",
        f"{figures['n'] + figures['n_absent']:,}",
        *("-" if value is None else f"{100 * value:.2f}" for value in values),
        "-" if edges is None else f"{100 * edges[0]:.2f} to {100 * edges[1]:.2f}",
    ]


def _numbers(rows: Sequence[Sequence[str]]) -> Table:
    """Return rows, the first of them names, as a table whose numbers are aligned to the right."""
    names, *others = map(tuple, rows)
    return Table(columns=names, rows=tuple(others), right=frozenset(range(1, len(names))))


# ── show ──


def _add_show(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the output: .png, .jpg or .html")
    parser.add_argument("--n", type=int, default=24, help="how many, drawn at random (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: %(default)s)")
    parser.add_argument(
        "--ids", nargs="+", action="extend", default=[], metavar="ID", help="these references, and no random ones"
    )
    parser.add_argument("--columns", type=int, default=4, help="images in a row (default: %(default)s)")


def _show(arguments: argparse.Namespace) -> int:
    check_outputs({"--out": arguments.out})
    from refseg.data.show import beyond_font, check_kind, choose, named, save

    check_kind(arguments.out)
    data = _open(arguments, _whole(arguments.dataset))
    samples = named(data, arguments.ids) if arguments.ids else choose(data, arguments.n, arguments.seed)
    save(samples, arguments.out, title=f"{data.name}:{data.split}", columns=arguments.columns)
    if arguments.out.suffix.lower() != ".html" and beyond_font(samples):
        print("refseg: note: the font lacks some letters of the expressions; write .html to read them", file=sys.stderr)
    print(f"{len(samples)} of {data.totals()['references']:,} references -> {arguments.out}")
    return 0


# ── describe ──


def _add_describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="photos with COCO's JSON (images, annotations, categories), LabelMe's, or annotations.jsonl",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the new folder: a data set of your own, as for training"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: %(default)s)")
    parser.add_argument("--copy", action="store_true", help="copy the photos; otherwise the new folder links to them")
    parser.add_argument(
        "--complete",
        action="store_true",
        help="every object of every category is annotated in every photo: expressions may name what a photo lacks",
    )
    parser.add_argument(
        "--components",
        choices=("none", "lone", "all"),
        default="lone",
        help="of masks of kind component, those that are taken for one object: none, those that are the only one of "
        "their name, all (default: %(default)s)",
    )


def _describe(arguments: argparse.Namespace) -> int:
    from refseg.data.describe.folder import describe_folder

    report = describe_folder(
        arguments.folder,
        arguments.out,
        seed=arguments.seed,
        components=arguments.components,
        complete=arguments.complete,
        copy=arguments.copy,
        progress=sys.stderr.isatty(),
    )
    if report.problems:
        left_out = counted(len(report.problems), "problem")
        print(f"refseg: note: {left_out} left photos out, the first is {report.problems[0]}", file=sys.stderr)
    counts = ", ".join(counted(getattr(report, f"{noun}s"), noun) for noun in ("image", "reference", "expression"))
    print(f"{counts} -> {arguments.out}")
    return 0


# ── convert ──


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="labels in COCO's JSON (also CVAT's), YOLO's text files with data.yaml, LabelMe's or Label Studio's JSON",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of the photos, if not with the labels")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new folder: a data set of your own")
    parser.add_argument("--copy", action="store_true", help="copy the photos; otherwise the new folder links to them")


def _convert(arguments: argparse.Namespace) -> int:
    from refseg.data.convert import convert_labels

    converted = convert_labels(arguments.folder, arguments.out, images=arguments.images, copy=arguments.copy)
    if converted.problems:
        left_out = counted(len(converted.problems), "problem")
        print(f"refseg: note: {left_out} left photos out, the first is {converted.problems[0]}", file=sys.stderr)
    print(f"{counted(converted.images, 'image')}, {counted(converted.masks, 'mask')} -> {arguments.out}")
    return 0

"""Write the tables of the pages from the files of results.

    python scripts/result_tables.py

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->` in a page of `docs`; NAME is one of `TABLES`.
A test compares them (`tests/e2e/test_results.py`).
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refseg.config import from_dict
from refseg.published import all_published
from refseg.training.ablation import Cell, table
from refseg.writers.table import Table, markdown

DOCS = Path(__file__).parents[1] / "docs"
DASH = "\N{EN DASH}"
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
GOALS = {"animals": 0.68, "macro": 0.42, "several": 0.45, "several_pointing": 0.72, "human": 0.22} | {
    "frequent_absent_recognised": 0.80,
    "frequent_rejected": 0.05,
}
"""What the model for photos was to reach at least, and at most for what is rejected."""


def main() -> None:
    """Write all pages."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := with_tables(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(page)


def with_tables(page: str) -> str:
    """Return the text of a page with its tables as the files of results have them."""
    return PLACE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", page)


def _results(name: str) -> Any:
    return json.loads((DOCS / "results" / name).read_text(encoding="utf-8"))


def _numbers(columns: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """Return a table whose columns after the first ones hold numbers."""
    right = frozenset(range(texts, len(columns)))
    return markdown(Table(columns=tuple(columns), rows=tuple(map(tuple, rows)), right=right))


def _share(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.0f} %"


def _fraction(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _interval(result: dict[str, Any], name: str) -> str:
    low, high = result["intervals"][name]
    return f"{low:.3f} to {high:.3f}"


def _read_back() -> str:
    """What the readers of other tools found in our labels."""
    rows = []
    for row in sorted(_results("read_back.json")["rows"], key=lambda row: row["format"]):
        if "error" in row:
            rows.append((row["format"], row["tool"], "", f"not read: {row['error']}", "", ""))
            continue
        same = "equal" if row["lowest_iou"] == 1 else f"lowest IoU {row['lowest_iou']:.3f}"
        words = "verbatim" if row["expressions"] else "changed"
        rows.append((row["format"], row["tool"], row["version"], same, words, row["date"]))
    columns = ("format", "tool", "version", "pixels", "expressions", "date")
    return markdown(Table(columns=columns, rows=tuple(rows)))


def _shapes_metrics() -> str:
    """The metrics of the bundled model on generated scenes, with their intervals."""
    one = _results("shapes/test.json")
    names = {"mean_iou": "mean IoU", "overall_iou": "overall IoU", "pointing": "pointing", "n_acc": "N-acc"}
    rows = [(title, _fraction(one[name]), _interval(one, name)) for name, title in names.items()]
    rows += [
        (f"precision at {at}", _fraction(value), _interval(one, f"precision@{at}"))
        for at, value in one["precision"].items()
    ]
    rows.append(("T-acc", _fraction(one["t_acc"]), _interval(one, "t_acc")))
    return _numbers(("metric", "value", "95 % interval"), rows)


def _shapes_forms() -> str:
    """The same by what is said."""
    one = _results("shapes/test.json")
    rows = [("all", f"{one['n']:,}", _fraction(one["mean_iou"]), _fraction(one["pointing"]))]
    for kind in ("style", "held_out", "form"):
        for name, part in one["by"][kind].items():
            values = (f"{part['n']:,}", _fraction(part["mean_iou"]), _fraction(part["pointing"]))
            rows.append((f"{kind.replace('_', ' ')}: {name}", *values))
    return _numbers(("", "expressions", "mean IoU", "pointing"), rows)


def _photos_goals() -> str:
    """What the bundled models know of photos, beside answers that read no words."""
    fractions = {
        "animals": "people and five animals",
        "macro": "all names, macro",
        "several": "one of several: mean IoU",
        "human": "human sentences",
    }
    shares = {
        "several_pointing": "one of several: pointing",
        "frequent_absent_recognised": "frequent names: absent recognised",
        "frequent_rejected": "frequent names: present rejected",
        "absent_recognised": "all names: absent recognised",
        "present_rejected": "all names: present rejected",
        "rare_recognised": "rare names recognised",
        "unknown_photo_recognised": "photos of nothing known",
    }
    systems = _results("photos/goals.json")["systems"]
    order = [name for name in systems if name not in ("largest object", "middle")] + ["largest object", "middle"]
    rows = [
        (title, *(form(systems[name][key]) for name in order), form(GOALS[key]) if key in GOALS else "")
        for titles, form in ((fractions, _fraction), (shares, _share))
        for key, title in titles.items()
    ]
    return _numbers(("", *order, "goal"), rows)


def _photos_names() -> str:
    """The mean IoU of the model for photos for each frequent name."""
    names = _results("photos/goals.json")["systems"]["photos"]["names"]
    rows = sorted(((name, str(one["n"]), f"{one['mean_iou']:.2f}") for name, one in names.items()), key=lambda r: r[2])
    return _numbers(("name", "photos", "mean IoU"), rows[::-1])


def _photos_forms() -> str:
    """The mean IoU of the model for photos where one of several things is referred to, by form."""
    forms = _results("photos/goals.json")["systems"]["photos"]["several_by_form"]
    rows = [(name, str(one["n"]), f"{one['mean_iou']:.2f}") for name, one in forms.items()]
    return _numbers(("form", "expressions", "mean IoU"), rows)


def _ablation(name: str) -> str:
    """The rows of an ablation."""
    return table(from_dict(Cell, cell) for cell in _results(f"ablation/{name}.json"))


def _cells(name: str) -> list[Cell]:
    return [from_dict(Cell, cell) for cell in _results(f"ablation/{name}.json")["cells"]]


def _beside_published(name: str, beside: Mapping[str, Sequence[str]], columns: Sequence[str]) -> str:
    """The mean IoU of each row of an ablation with every seed, and published numbers beside it."""
    found: dict[str, dict[int, float]] = {}
    for cell in _cells(name):
        found.setdefault(cell.row, {})[cell.seed] = 100 * cell.mean_iou
    seeds = sorted(set().union(*found.values()))
    nothing = ("",) * len(columns)
    rows = [
        (
            row,
            *(f"{ious[seed]:.2f}" if seed in ious else "" for seed in seeds),
            f"{statistics.mean(ious.values()):.2f}",
            *beside.get(row, nothing),
        )
        for row, ious in found.items()
    ]
    return _numbers(("row", *(f"seed {seed}" for seed in seeds), "mean", *columns), rows)


def _easy_rows_published() -> str:
    """CRIS' rows on easy scenes, and in the authors' talk on the val splits of three sets (mean IoU)."""
    talk = {
        "baseline": ("62.66", "50.17", "49.24"),
        "contrastive": ("64.64", "53.15", "52.67"),
        "decoder": ("66.31", "54.73", "51.46"),
        "both-1": ("68.66", "59.97", "57.82"),
        "both-2": ("69.13", "60.75", "58.40"),
        "both-3": ("69.52", "61.39", "59.35"),
        "both-4": ("69.18", "61.15", "58.79"),
    }
    return _beside_published("easy_rows", talk, ("RefCOCO", "RefCOCO+", "G-Ref"))


def _easy_systems_published() -> str:
    """The five systems on easy scenes, and as published on RefCOCO val, where CRIS and RISCLIP start from CLIP."""
    names = {
        "efn": ("EFN", "Wide ResNet-101 + GRU"),
        "vlt": ("VLT (2021)", "Darknet-53 + GRU"),
        "mcn": ("MCN", "Darknet-53 + GRU"),
        "cris-from-clip": ("CRIS", "CLIP ResNet-50"),
        "risclip-from-clip": ("RISCLIP-B", "CLIP ViT-B/16, frozen"),
    }
    numbers = {
        (one.system, one.backbone, one.metric): one
        for one in all_published()
        if (one.data, one.split) == ("refcoco", "val")
    }
    beside = {
        row: next((f"{numbers[(*name, m)].value:.2f} {m}",) for m in ("mIoU", "oIoU") if (*name, m) in numbers)
        for row, name in names.items()
    }
    return _beside_published("easy_systems", beside, ("RefCOCO val, published",))


def _without_torch() -> str:
    """What predicting costs with PyTorch, and with ONNX Runtime alone."""
    found = _results("without_torch.json")
    sizes = found["megabytes"]
    both = "PyTorch", "ONNX Runtime"
    rows = [
        ("packages installed", *(f"{sizes[one]:,.0f} MB" for one in both), f"{sizes[both[0]] / sizes[both[1]]:.1f}")
    ]
    for count, title in ((1, "one expression"), (16, "16 expressions")):
        part = found[f"{count} expressions"]
        seconds, peaks = part["medians"], part["peak_MiB"]
        rows.append((f"refseg predict, {title}", *(f"{seconds[one]:.1f} s" for one in both), f"{part['ratio']:.1f}"))
        ratio = peaks[both[0]] / peaks[both[1]]
        rows.append((f"its peak memory, {title}", *(f"{peaks[one]} MiB" for one in both), f"{ratio:.1f}"))
    return _numbers(("photos", *both, "ratio"), rows)


def _against_authors(*files: str) -> str:
    """Our time beside that of the code that a model comes from."""
    found: dict[str, Any] = {}
    for file in files:
        found |= _results(file)
    titles = {
        "cris, 1": ("CRIS R50, one image, 1 expression", "theirs"),
        "cris, 16": ("CRIS R50, one image, 16 expressions", "theirs"),
        "files": ("CRIS R50, four JPEG files, 3 expressions each, to masks on disk", "theirs"),
        "clipseg": ("CLIPSeg, one image, 16 expressions", "transformers"),
    }
    columns = {
        "ours, exact": "PyTorch, exact",
        "ours, fast": "PyTorch, fast",
        "OpenVINO, float32": "OpenVINO, float32",
        "OpenVINO, bfloat16": "bfloat16",
        "OpenVINO, int8": "int8",
    }
    times = {name: found[name]["medians"] for name in titles if name in found}
    columns = {name: title for name, title in columns.items() if any(name in one for one in times.values())}
    rows = []
    for work, seconds in times.items():
        title, other = titles[work]
        theirs = seconds[other]
        ours = (
            f"{theirs / seconds[name]:.1f} x ({seconds[name]:.2f} s)" if name in seconds else "" for name in columns
        )
        rows.append((title, f"{theirs:.2f} s ({other})", *ours))
    return _numbers(("work", "other code", *columns.values()), rows)


def _serve_load() -> str:
    """Latency and throughput of the server."""
    rows, found = [], _results("serve_load.json")
    for load in found["loads"]:
        times = [f"{load['milliseconds'][name]:,.0f} ms" for name in ("p50", "p95", "p99")]
        memory = f"{max(load['memory_MiB'])} MiB"
        clients, speed = str(load["clients"]), f"{load['per_second']:.1f}"
        ratio = f"{found['ratios'][load['name']]:.1f}"
        rows.append((load["name"], clients, speed, ratio, *times, memory, str(load["wrong"])))
    columns = ("clients", "answers a second", "times the endpoint", "p50", "p95", "p99", "peak memory", "wrong or lost")
    return _numbers(("", *columns), rows)


def _video() -> str:
    """Ways to segment generated videos, against asking every frame."""
    ways = _results("video.json")["ways"]
    (whole,) = (one["frames_per_second"] for one in ways if one["way"] == "every frame")
    rows = []
    for one in ways:
        speed = one["frames_per_second"]
        faster = DASH if speed is None else f"{speed / whole:.1f}"
        rows.append(
            (one["way"], *(_fraction(one[name]) for name in ("J", "F", "flicker")), _share(one["asked"]), faster)
        )
    return _numbers(("", "J", "F", "flicker", "frames asked", "times as fast"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "read_back": _read_back,
    "shapes_metrics": _shapes_metrics,
    "shapes_forms": _shapes_forms,
    "photos_goals": _photos_goals,
    "photos_names": _photos_names,
    "photos_forms": _photos_forms,
    "ablation_shapes": lambda: _ablation("shapes"),
    "ablation_systems": lambda: _ablation("systems"),
    "easy_rows": lambda: table(_cells("easy_rows")),
    "easy_systems": lambda: table(_cells("easy_systems")),
    "easy_rows_published": _easy_rows_published,
    "easy_systems_published": _easy_systems_published,
    "without_torch": _without_torch,
    "against_authors": lambda: _against_authors("against_authors.json", "files_to_masks.json"),
    "against_authors_amx": lambda: _against_authors("against_authors_amx.json", "files_to_masks_amx.json"),
    "against_authors_avx2": lambda: _against_authors("against_authors_avx2.json"),
    "serve_load": _serve_load,
    "video": _video,
}


if __name__ == "__main__":
    main()

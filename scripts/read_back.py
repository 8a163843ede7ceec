"""Read labels back by the readers of the tools that they are for, and compare all pixels.

    python scripts/read_back.py --out docs/results/read_back.json
    python scripts/result_tables.py

Tools that the extra `dev` does not install get an environment of their own each, in a folder that is removed afterwards
(--environments keeps it), with the newest version that pip finds. The second command writes the table of docs/label.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tool_readers import READERS

from refseg.data.exports import export
from refseg.masks import encode_rle, iou
from refseg.writers.labelled import LabelledImage, Region

READER = Path(__file__).with_name("tool_readers.py")
SCALE = 4
SIZE = (60 * SCALE, 80 * SCALE)
RING, SPECKS = 'the "red" ring: 50 % größer, left', "左 the specks & <dots>"
REQUIRES = {
    "fiftyone": ["fiftyone", "pycocotools"],
    "label-studio-sdk": ["label-studio-sdk", "pycocotools"],
    "ultralytics": ["ultralytics", f"torch=={metadata.version('torch').partition('+')[0]}"],
}
"""What is installed for a tool, if it is not just the package of its name: the PyTorch is the one that is at hand."""


def masks_with_holes() -> dict[str, Any]:
    """Return masks by expression: a ring with a square inside and another part; a square with holes at its edge."""
    y, x = np.mgrid[:60, :80]
    distance = (y - 25) ** 2 + (x - 25) ** 2
    ring = (distance < 20**2) & (distance > 10**2)
    ring[23:28, 23:28] = ring[50:56, 60:75] = True
    specks = np.zeros_like(ring)
    specks[40:50, 50:60] = True
    specks[42, 52] = specks[43, 53] = specks[46:48, 55:57] = specks[40, 50] = False
    return {text: np.kron(mask, np.ones((SCALE, SCALE), bool)) for text, mask in ((RING, ring), (SPECKS, specks))}


def main() -> None:
    """Carry out the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tools", nargs="+", choices=READERS, default=[*READERS], help="default: all")
    parser.add_argument("--environments", type=Path, help="the folder of the tools' environments, to keep")
    parser.add_argument("--out", type=Path, help="write the rows there as JSON; rows of other tools stay")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        environments = arguments.environments or Path(made, "environments")
        rows = read_back(arguments.tools, Path(made), environments.absolute())
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    if arguments.out is not None:
        write(arguments.out, rows)


def read_back(tools: list[str], place: Path, environments: Path) -> list[dict[str, Any]]:
    """Write every format below a folder, and return what each tool read: a row for each tool and format."""
    photos = write_labels(place, {name for tool in tools for name in READERS[tool]})
    wanted = {(image.file, one.expression): one.mask for image in photos for one in image.regions}
    rows = []
    for tool in tools:
        try:
            python = interpreter(tool, environments)
        except subprocess.CalledProcessError as error:
            reason = error.stderr.strip().splitlines()[-1]
            rows += [{"format": name, "tool": tool, "error": f"not installed: {reason}"} for name in READERS[tool]]
            continue
        for name in READERS[tool]:
            row: dict[str, Any] = {"format": name, "tool": tool}
            masks = place / "masks.npz"
            words = [str(python), str(READER), tool, name, str(place / name), str(masks)]
            done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=place)
            if done.returncode:
                rows.append(row | {"error": done.stderr.strip().splitlines()[-1]})
                continue
            said = json.loads(done.stdout.splitlines()[-1])
            with np.load(masks) as file:
                found = {tuple(key): file[str(number)] for number, key in enumerate(said["keys"])}
            rows.append(
                row | {"version": said["version"], "date": f"{datetime.now(UTC):%Y-%m-%d}"} | same(found, wanted)
            )
    return rows


def same(found: dict[Any, Any], wanted: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """Return whether the expressions are the same, and the lowest IoU of the masks: 1 if all pixels are equal."""
    shared = [key for key in wanted if key in found]
    lowest = min((iou(found[key], wanted[key]) for key in shared), default=0.0)
    return {"expressions": found.keys() == wanted.keys(), "masks": len(shared), "lowest_iou": round(lowest, 4)}


def write_labels(place: Path, formats: set[str]) -> list[LabelledImage]:
    """Write two photos with masks below a folder, as `refseg label` lays them out."""
    rng = np.random.default_rng(0)
    (place / "images").mkdir()
    labelled = []
    for file, expressions in {"a.png": (RING, SPECKS), "b c.png": (SPECKS,)}.items():
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(place / "images" / file)
        masks = masks_with_holes()
        regions = (
            Region(id=f"{file}/{number}", expression=text, score=0.75, rle=encode_rle(masks[text]))
            for number, text in enumerate(expressions)
        )
        labelled.append(LabelledImage(file=file, regions=tuple(regions)))
    export(labelled, sorted(formats), place / "images", place, copy=False)
    return labelled


def interpreter(tool: str, environments: Path) -> Path:
    """Return the Python that has a tool: this one, or one of an environment that is made for it."""
    if util.find_spec(tool.replace("-", "_") if tool != "pillow" else "PIL") is not None:
        return Path(sys.executable)
    folder = environments / tool
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
        install = [python, "-m", "pip", "install", "-q", *REQUIRES.get(tool, [tool])]
        try:
            subprocess.run(install, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(folder)
            raise
    return python


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows with the command; those of tools that were not run now stay."""
    new = {row["tool"] for row in rows}
    earlier = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    order = [*READERS]
    merged = [row for row in earlier if row["tool"] not in new] + rows
    merged.sort(key=lambda row: order.index(row["tool"]))
    content = {
        "command": "python scripts/read_back.py --out docs/results/read_back.json",
        "python": platform.python_version(),
        "size": SIZE,
        "rows": merged,
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

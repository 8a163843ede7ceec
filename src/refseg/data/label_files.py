"""Writes the labels of a run: a folder of one's own data, the formats of other tools, and what a person should look at.

What a person has decided (`verdicts`) counts before what the model answered.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg.data.catalogue import open_data
from refseg.data.exports import export
from refseg.data.formats.record import Problem, first_problem
from refseg.data.label_run import Answers, LabelRun
from refseg.data.placed import place_photos
from refseg.data.show import choose, save
from refseg.data.verdicts import Verdicts
from refseg.errors import DataError, counted
from refseg.files import json_line, unwritable, write_text
from refseg.writers.labelled import LabelledImage, Region, separated_objects

__all__ = ["PHOTOS", "Labels", "write_labels"]

TABLE, PHOTOS = "data.jsonl", "images"
REVIEW, SUMMARY, SHEET = "review.csv", "summary.json", "contact.jpg"
SHOWN = 24
"""Masks on the contact sheet, at most."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What `write_labels` has written."""

    photos: int
    """With an answer."""
    masks: int
    absent: int
    """Expressions that are kept as fitting nothing."""
    nothing_fits: int
    """Answers that nothing fits, which are left out."""
    below: int
    """Masks whose score is too low, which are left out."""
    dropped: int
    """Answers that a person left out."""
    reviewed: int
    """Answers that a person has decided on."""
    review: int
    """Answers that are listed for review."""
    problems: tuple[Problem, ...]
    """Photos and rows that were left out, with the reason."""


def write_labels(folder: Path, run: LabelRun, answers: Answers, verdicts: Verdicts, out: Path) -> Labels:
    """Write the labels of a run; those of an earlier time are replaced.

    Args:
        folder: the photos.
        run: what was asked, and what is written.
        answers: of the model.
        verdicts: of a person.
        out: the folder of the run.

    Raises:
        DataError: no mask is kept.
        OutputError: a format's folder was changed since it was written, or something cannot be written.
    """
    try:
        answered = [photo.file for photo in run.photos if photo.file in answers]
        counts, rows = _kept(run, answers, verdicts)
        if not counts["masks"]:
            problem = first_problem(run.problems)
            raise DataError(f"{out}: of {counted(len(answered), 'photo')} no mask is kept{problem}")
        place_photos(folder, answered, out, copy=run.copy)
        write_text(out / TABLE, b"".join(map(json_line, rows)).decode())
        images = _labelled(rows)
        objects = [separated_objects(one) for one in images] if run.separate else images
        export(objects, run.formats, folder, out, copy=run.copy)
        listed = list(_listed(run, answers, verdicts))
        write_text(out / REVIEW, _csv([("image", "expression", "score", "reason"), *listed]))
        save(choose(open_data(f"{out}:all"), SHOWN), out / SHEET, title=str(out))
    except OSError as error:
        hint = "" if run.copy else "; links may not be allowed there: copy the photos (--copy)"
        raise unwritable(out, error, hint) from None
    labels = Labels(
        photos=len(answered),
        masks=counts["masks"],
        absent=counts["absent"],
        nothing_fits=counts["nothing fits"],
        below=counts["below"],
        dropped=counts["dropped"],
        reviewed=counts["reviewed"],
        review=len(listed),
        problems=run.problems,
    )
    figures = {name: value for name, value in vars(labels).items() if name != "problems"}
    summary = (
        run.labeller.origin | figures | {"formats": [*run.formats], "problems": [str(one) for one in run.problems]}
    )
    write_text(out / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return labels


def _kept(run: LabelRun, answers: Answers, verdicts: Verdicts) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Return the number of answers of each kind (as in `Labels`), and the rows of those that are kept."""
    counts, rows = Counter[str](), []
    for photo in run.photos:
        for id, answer in zip(photo.ids, answers.get(photo.file, ()), strict=False):
            verdict = verdicts.of(photo.file, answer["text"])
            label = dict(answer)
            if verdict is not None:
                counts["reviewed"] += 1
                label |= {"reviewed": True} | (vars(verdict.correction) if verdict.correction else {})
            if verdict is not None:
                kind = ("masks" if label["rle"] else "absent") if verdict.kept else "dropped"
            elif label["rle"] is None:
                kind = "absent" if run.keep_absent else "nothing fits"
            else:
                kind = "masks" if label["score"] >= run.least else "below"
            counts[kind] += 1
            if kind in ("masks", "absent"):
                # Named from the table on, as the folder of the photos may have a folder `images` itself.
                place = {"id": id, "image": f"{PHOTOS}/{photo.file}", "split": photo.split}
                row = place | label | run.labeller.origin
                rows.append({name: value for name, value in row.items() if value is not None})
    return counts, rows


def _labelled(rows: Iterable[Mapping[str, Any]]) -> list[LabelledImage]:
    regions: dict[str, list[Region]] = {}
    for row in rows:
        if "rle" in row:
            region = Region(id=row["id"], expression=row["text"], score=row["score"], rle=row["rle"])
            regions.setdefault(row["image"].removeprefix(f"{PHOTOS}/"), []).append(region)
    return [LabelledImage(file=file, regions=tuple(found)) for file, found in regions.items()]


def _listed(run: LabelRun, answers: Answers, verdicts: Verdicts) -> Iterator[tuple[Any, ...]]:
    """Yield image, expression, score and reason of each answer that a person should look at, and has not yet."""
    for photo in run.photos:
        for answer in answers.get(photo.file, ()):
            reason = run.reason(answer)
            if reason is not None and verdicts.of(photo.file, answer["text"]) is None:
                yield photo.file, answer["text"], answer["score"], reason


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()

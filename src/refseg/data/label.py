"""Labels photos with the masks of any model, as a folder of one's own data (`formats.folder`) and for other tools.

Every answer is kept in `labels.jsonl` beside the table, a photo a line, below a line that says what made them: so an
interrupted run goes on where it stopped, and what is kept for training can be chosen again without computing. What a
person should look at is listed in `review.csv`; `contact.jpg` shows some masks, and `summary.json` has the counts.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from refseg.data.asked import Photo
from refseg.data.catalogue import open_data
from refseg.data.exports import export
from refseg.data.formats.record import Problem, first_problem
from refseg.data.placed import place_photos
from refseg.data.show import choose, save
from refseg.errors import ConfigError, DataError, ImageError, OutputError, UnknownNameError, counted
from refseg.files import write_text
from refseg.inputs.read import read_image
from refseg.models.exported import find_export, read_export
from refseg.models.families import MODELS
from refseg.models.hub import resolve
from refseg.peers.stored import find_peer
from refseg.peers.table import peer_entry, refiner_part
from refseg.segmenter import BaseSegmenter
from refseg.values import Prediction
from refseg.writers.formats import FORMATS
from refseg.writers.labelled import LabelledImage, Region, separated_objects
from refseg.writers.result import append_line

__all__ = ["Labeller", "Labels", "check_settings", "label", "labeller"]

ANSWERS, TABLE = "labels.jsonl", "data.jsonl"
REVIEW, SUMMARY, SHEET = "review.csv", "summary.json", "contact.jpg"
SHOWN = 24
"""Masks on the contact sheet, at most."""
NOT_STATED = "not stated"


@dataclass(frozen=True, kw_only=True)
class Labeller:
    """What makes the masks, as it is stored with each of them."""

    model: str
    revision: str
    """The commits of its files; of a model folder, the fingerprint of its weights."""
    licence: str
    """Of the weights."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What `label` has written."""

    photos: int
    """With an answer."""
    masks: int
    absent: int
    """Expressions that are kept as fitting nothing."""
    nothing_fits: int
    """Answers that nothing fits, which are left out."""
    below: int
    """Masks whose score is too low, which are left out."""
    review: int
    """Answers that are listed for review."""
    problems: tuple[Problem, ...]
    """Photos and rows that were left out, with the reason."""


def labeller(model: str, refine: str | None, segmenter: BaseSegmenter) -> Labeller:
    """Return what makes the masks of a model.

    Args:
        model: as it was loaded.
        refine: what refines its masks, if anything does.
        segmenter: the loaded model.
    """
    if (peer := find_peer(model)) is not None:
        entry = peer_entry(peer.peer)
        revision, licence = " ".join(part.source for part in entry.parts), entry.licence
    else:
        revision, licence = segmenter.fingerprint, _own_licence(model)
    if refine is None:
        return Labeller(model=model, revision=revision, licence=licence)
    part = refiner_part(refine)
    return Labeller(
        model=f"{model}, refined by {refine}",
        revision=f"{revision} {part.source}",
        licence=", ".join(dict.fromkeys((licence, part.licence))),
    )


def _own_licence(model: str) -> str:
    if model in MODELS:
        return MODELS[model].licence
    folder = find_export(model) or resolve(model)
    return str(read_export(folder).about.get("licence", NOT_STATED))


def label(
    segmenter: BaseSegmenter,
    by: Labeller,
    folder: Path,
    photos: Iterable[Photo],
    out: Path,
    *,
    formats: Sequence[str] = (),
    least: float = 0.0,
    review_below: float = 0.5,
    keep_absent: bool = False,
    separate: bool = False,
    copy: bool = False,
    progress: bool = False,
) -> Labels:
    """Write a folder of one's own data with the masks that a model gives photos, and the same for other tools.

    Args:
        segmenter: the model.
        by: what is stored with each mask.
        folder: the photos.
        photos: what is asked.
        out: a new folder, or that of an interrupted or earlier run of the same model, whose answers are used.
        formats: of other tools, each written into a folder of its name (see `writers.formats`).
        least: masks of a lower score are left out.
        review_below: masks of a lower score are listed for review, and so are expressions that nothing fits.
        keep_absent: whether expressions that nothing fits are kept, as such.
        separate: whether each connected component of a mask is an object of its own in the formats of other tools.
        copy: whether the photos are copied; otherwise `images` in the new folder is a link to the folder.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: a score is not in 0..1, or `out` lies within the folder of the photos, or a library is missing.
        UnknownNameError: there is no such format.
        DataError: no mask is kept.
        OutputError: `out` holds something else, or cannot be written.
    """
    check_settings(folder, out, formats, least, review_below)
    photos, problems = list(photos), list[Problem]()
    try:
        answers = _earlier(out, by)
        for photo in tqdm(photos, unit="photo", disable=not progress):
            known = answers.get(photo.file)
            if known is not None and [one["text"] for one in known] == list(photo.expressions):
                continue
            try:
                image = read_image(folder / photo.file)
            except ImageError as error:
                problems.append(Problem(file=photo.file, row="", kind="image", message=str(error)))
                answers.pop(photo.file, None)
                continue
            found = segmenter.segment(segmenter.encode(image), photo.expressions)
            answers[photo.file] = [_answer(prediction) for prediction in found]
            append_line(out / ANSWERS, _line({"image": photo.file, "answers": answers[photo.file]}))
        answered = [photo.file for photo in photos if photo.file in answers]
        counts, rows = _kept(photos, answers, by, least, keep_absent)
        if not counts["masks"]:
            raise DataError(f"{out}: of {counted(len(answered), 'photo')} no mask is kept{first_problem(problems)}")
        place_photos(folder, answered, out, copy=copy)
        write_text(out / TABLE, b"".join(map(_line, rows)).decode())
        images = _labelled(rows)
        export([separated_objects(one) for one in images] if separate else images, formats, folder, out, copy=copy)
        reviewed = list(_reviewed(photos, answers, least, review_below))
        write_text(out / REVIEW, _csv([("image", "expression", "score", "reason"), *reviewed]))
        save(choose(open_data(f"{out}:all"), SHOWN), out / SHEET, title=str(out))
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        hint = "" if copy else "; links may not be allowed there: copy the photos (--copy)"
        raise OutputError(f"{out}: cannot be written: {error.strerror}{hint}") from None
    labels = Labels(
        photos=len(answered),
        masks=counts["masks"],
        absent=counts["absent"],
        nothing_fits=counts["nothing_fits"],
        below=counts["below"],
        review=len(reviewed),
        problems=tuple(problems),
    )
    figures = {name: value for name, value in vars(labels).items() if name != "problems"}
    summary = asdict(by) | figures | {"formats": [*formats], "problems": [str(one) for one in problems]}
    write_text(out / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return labels


def check_settings(
    folder: Path, out: Path, formats: Sequence[str] = (), least: float = 0.0, review_below: float = 0.5
) -> None:
    """Check what `label` is given, so far as it needs no model.

    Raises:
        ConfigError: as `label`.
        UnknownNameError: as `label`.
    """
    for name, score in (("lowest score of a mask", least), ("score below which masks are reviewed", review_below)):
        if not 0 <= score <= 1:
            raise ConfigError(f"the {name} must lie in 0..1, got {score}")
    for name in formats:
        if name not in FORMATS:
            raise UnknownNameError("format", name, FORMATS)
    if "parquet" in formats and find_spec("pyarrow") is None:
        raise ConfigError("parquet needs pyarrow: pip install 'refseg[tables]'")
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{out}: lies within the folder of the photos; name a folder elsewhere")


def _earlier(out: Path, by: Labeller) -> dict[str, list[dict[str, Any]]]:
    """Return the answers of an earlier run by photo; of a new folder none, whose file of answers is begun."""
    out.mkdir(parents=True, exist_ok=True)
    path, begin = out / ANSWERS, {"labels": asdict(by)}
    if not path.exists():
        if any(out.iterdir()):
            raise OutputError(f"{out}: has files already, and no {ANSWERS} to go on with; name a new folder")
        append_line(path, _line(begin))
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:  # a line that was cut off when its process was killed
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        first, *lines = [json.loads(line) for line in whole.split(b"\n")[:-1]]
        answers = {line["image"]: line["answers"] for line in lines}
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{path}: is broken; name a new folder") from None
    if first != begin:
        raise OutputError(f"{path}: is not of {by.model} at this revision; name a new folder")
    return answers


def _answer(prediction: Prediction) -> dict[str, Any]:
    return {
        "text": prediction.expression,
        "score": round(prediction.score, 6),
        "rle": None if prediction.empty else prediction.rle,
    }


def _kept(
    photos: Iterable[Photo], answers: Mapping[str, list[dict[str, Any]]], by: Labeller, least: float, keep_absent: bool
) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Return the number of answers of each kind (as in `Labels`), and the rows of those that are kept."""
    counts, rows = Counter[str](), []
    for photo in photos:
        for id, answer in zip(photo.ids, answers.get(photo.file, ()), strict=False):
            if answer["rle"] is None:
                kind = "absent" if keep_absent else "nothing_fits"
            else:
                kind = "masks" if answer["score"] >= least else "below"
            counts[kind] += 1
            if kind in ("masks", "absent"):
                # Named from the table on, as the folder of the photos may have a folder `images` itself.
                row = {"id": id, "image": f"images/{photo.file}", "split": photo.split, **answer, **asdict(by)}
                rows.append({name: value for name, value in row.items() if value is not None})
    return counts, rows


def _labelled(rows: Iterable[Mapping[str, Any]]) -> list[LabelledImage]:
    regions: dict[str, list[Region]] = {}
    for row in rows:
        if "rle" in row:
            region = Region(id=row["id"], expression=row["text"], score=row["score"], rle=row["rle"])
            regions.setdefault(row["image"].removeprefix("images/"), []).append(region)
    return [LabelledImage(file=file, regions=tuple(found)) for file, found in regions.items()]


def _reviewed(
    photos: Iterable[Photo], answers: Mapping[str, list[dict[str, Any]]], least: float, review_below: float
) -> Iterator[tuple[Any, ...]]:
    """Yield image, expression, score and reason of each answer that a person should look at."""
    for photo in photos:
        for answer in answers.get(photo.file, ()):
            score = answer["score"]
            if answer["rle"] is None:
                yield photo.file, answer["text"], score, "nothing fits"
            elif score < max(least, review_below):
                yield photo.file, answer["text"], score, "left out" if score < least else "low score"


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"

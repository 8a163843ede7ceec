"""The folder of a run of `refseg label`: what was asked, by which model, what it answered, and how labels are written.

`run.json` has what was asked and the settings. `labels.jsonl` has every answer, a photo a line, below a line that says
what made them, so that an interrupted run goes on where it stopped. The photos are in `images`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from refseg.config import from_dict, to_dict
from refseg.data.asked import Photo
from refseg.data.formats.record import Problem, safe_name
from refseg.errors import ConfigError, DataError, OutputError
from refseg.files import append_line, json_line, whole_lines, write_text
from refseg.masks import check_rle

__all__ = [
    "ANSWERS",
    "RUN",
    "Answers",
    "LabelRun",
    "Labeller",
    "add_answers",
    "earlier_answers",
    "open_run",
    "save_run",
]

ANSWERS, RUN = "labels.jsonl", "run.json"

Answers: TypeAlias = dict[str, list[dict[str, Any]]]
"""Of each photo's file, for each of its expressions: `text`, `score` and `rle`, which is null where nothing fits."""


@dataclass(frozen=True, kw_only=True)
class Labeller:
    """What makes the masks."""

    model: str
    """As it was loaded."""
    refine: str | None = None
    """What refines its masks, if anything does."""
    revision: str
    """The commits of its files; of a model folder, the fingerprint of its weights."""
    licence: str
    """Of the weights."""
    tile: int | None = None
    """Side of the tiles that a photo is asked in, pixels (see `refseg.tiles`); None: the whole photo."""

    @property
    def name(self) -> str:
        """The model, and what refines its masks."""
        return self.model if self.refine is None else f"{self.model}, refined by {self.refine}"

    @property
    def origin(self) -> dict[str, str]:
        """What is stored with each mask."""
        return {"model": self.name, "revision": self.revision, "licence": self.licence}


@dataclass(frozen=True, kw_only=True)
class LabelRun:
    """What a run was asked, and how its labels are written."""

    labeller: Labeller
    photos: tuple[Photo, ...] = ()
    problems: tuple[Problem, ...] = ()
    """Photos and rows that were left out, with the reason."""
    formats: tuple[str, ...] = ()
    """Of other tools (see `writers.formats`)."""
    least: float = 0.0
    """Masks of a lower score are left out."""
    review_below: float = 0.5
    """Masks of a lower score are listed for review."""
    keep_absent: bool = False
    """Whether expressions that nothing fits are kept, as such."""
    separate: bool = False
    """Whether each connected component of a mask is an object of its own in the formats of other tools."""
    copy: bool = False
    """Whether the photos are copied; otherwise `images` is a link to their folder."""

    def reason(self, answer: dict[str, Any]) -> str | None:
        """Return why a person should look at an answer; None: there is no reason."""
        if answer["rle"] is None:
            return "nothing fits"
        if answer["score"] < self.least:
            return "left out"
        return "low score" if answer["score"] < self.review_below else None


def save_run(run: LabelRun, out: Path) -> None:
    """Write what a run was asked, and how its labels are written.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(out / RUN, json_line(to_dict(run)).decode())


def open_run(out: Path) -> tuple[LabelRun, Answers]:
    """Return a run that came to its end, and its answers; both may come from somebody else.

    Raises:
        DataError: the folder is none of a run, or the run is not finished, or broken.
        OutputError: its answers are those of another model.
    """
    path = out / RUN
    try:
        values = json.loads(path.read_bytes())
        photos = tuple(_photo(one) for one in values.pop("photos"))
        run = from_dict(LabelRun, values | {"photos": []}, where=str(path))
    except OSError:
        hint = "" if not (out / ANSWERS).exists() else ", since its run was interrupted: give its command again"
        raise DataError(f"{out}: is no folder that `refseg label` has written; there is no {RUN}{hint}") from None
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError, DataError) as error:
        raise DataError(f"{path}: is broken: {error}") from None
    return LabelRun(**vars(run) | {"photos": photos}), earlier_answers(out, run.labeller)


def _photo(values: dict[str, Any]) -> Photo:
    # 10,000 of them: `from_dict` would take ten seconds.
    ids, expressions = (tuple(map(str, values[name])) for name in ("ids", "expressions"))
    return Photo(file=safe_name(values["file"]), split=values["split"], ids=ids, expressions=expressions)


def earlier_answers(out: Path, labeller: Labeller) -> Answers:
    """Return the answers of an earlier run by photo; of a new folder none, whose file of answers is begun.

    Raises:
        OutputError: the folder holds something else, or answers of another model, or broken ones.
        OSError: it cannot be read or written.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, begin = out / ANSWERS, {"labels": asdict(labeller)}
    if not path.exists():
        if any(out.iterdir()):
            raise OutputError(f"{out}: has files already, and no {ANSWERS} to go on with; name a new folder")
        append_line(path, json_line(begin))
        return {}
    try:
        first, *lines = map(json.loads, whole_lines(path))
        answers = {line["image"]: [_checked(one) for one in line["answers"]] for line in lines}
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{path}: is broken; name a new folder") from None
    if first != begin:
        raise OutputError(f"{path}: is not of {labeller.name} at this revision; name a new folder")
    return answers


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if answer["rle"] is not None:
        check_rle(answer["rle"])
    return {"text": str(answer["text"]), "score": float(answer["score"]), "rle": answer["rle"]}


def add_answers(out: Path, file: str, answers: list[dict[str, Any]]) -> None:
    """Append the answers on a photo.

    Raises:
        OSError: they cannot be written.
    """
    append_line(out / ANSWERS, json_line({"image": file, "answers": answers}))

"""Labels photos with the masks of any model, as a folder of one's own data (`formats.folder`) to train another on.

Every answer is kept in `labels.jsonl` beside the table, a photo a line, below a line that says what made them: so an
interrupted run goes on where it stopped, and what is kept for training can be chosen again without computing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from refseg.data.formats.folder import folder as own_folder
from refseg.data.formats.record import Problem, Record
from refseg.data.media import Media, existing_folder
from refseg.errors import ConfigError, DataError, ImageError, OutputError, counted
from refseg.files import replacing, write_text
from refseg.inputs.clip_bpe import check_expression
from refseg.inputs.read import image_suffixes, read_image
from refseg.models.exported import find_export, read_export
from refseg.models.families import MODELS
from refseg.models.hub import resolve
from refseg.peers.stored import find_peer
from refseg.peers.table import peer_entry, refiner_part
from refseg.segmenter import BaseSegmenter
from refseg.values import Prediction
from refseg.writers.result import append_line

__all__ = ["Labeller", "Labels", "Photo", "asked_of_all", "asked_of_each", "check_settings", "label", "labeller"]

ANSWERS, TABLE = "labels.jsonl", "data.jsonl"
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
class Photo:
    """A photo, and what is asked about it."""

    file: str
    """Relative to the folder of the photos."""
    split: str | None
    """None: the table names none."""
    ids: tuple[str, ...]
    """Of the expressions, unique in the folder."""
    expressions: tuple[str, ...]


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


def asked_of_all(folder: Path, expressions: Path) -> list[Photo]:
    """Return all photos of a folder and the folders below it, each with the same expressions.

    Args:
        folder: the photos.
        expressions: a text file of expressions, one a line.

    Raises:
        DataError: there is no photo or no expression, or one of both cannot be read.
        ExpressionError: a line is no expression.
    """
    try:
        lines = expressions.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise DataError(f"{expressions}: cannot be read: {reason}") from None
    texts = tuple(dict.fromkeys(check_expression(line.strip()) for line in lines if line.strip()))
    paths = [path.relative_to(folder) for path in existing_folder(folder).rglob("*") if path.is_file()]
    files = sorted(
        path.as_posix()
        for path in paths
        if path.suffix.lower() in image_suffixes() and not any(part.startswith(".") for part in path.parts)
    )
    if not (texts and files):
        raise DataError(f"{folder}: holds no photos" if texts else f"{expressions}: holds no expression")
    return [
        Photo(file=file, split=None, ids=tuple(f"{file}/{number}" for number in range(len(texts))), expressions=texts)
        for file in files
    ]


def asked_of_each(folder: Path, problems: list[Problem]) -> list[Photo]:
    """Return the photos of a folder's table, each with its expressions; masks in the table are not looked at.

    Args:
        folder: a folder of one's own data, `data.jsonl` or `data.csv`; rows need no mask.
        problems: is given rows that cannot be used.

    Raises:
        DataError: there is no such folder or table, or no row of it can be used.
    """
    source = own_folder(existing_folder(folder))
    media = Media(source)
    of_files: dict[str, list[Record]] = {}
    for record in source.read(problems.append):
        try:
            file = media.find_image(record.file).relative_to(folder).as_posix()
        except DataError as error:
            problems.append(Problem(file=record.table, row=record.row, kind="image", message=str(error)))
        else:
            of_files.setdefault(file, []).append(record)
    if not of_files:
        raise DataError(f"{folder}: no row of its table can be used{_first(problems)}")
    return [
        Photo(
            file=file,
            split=None if records[0].split == "all" else records[0].split,
            ids=tuple(id for record in records for id in record.expression_ids),
            expressions=tuple(text for record in records for text in record.expressions),
        )
        for file, records in of_files.items()
    ]


def label(
    segmenter: BaseSegmenter,
    by: Labeller,
    folder: Path,
    photos: Iterable[Photo],
    out: Path,
    *,
    least: float = 0.0,
    keep_absent: bool = False,
    copy: bool = False,
    progress: bool = False,
) -> Labels:
    """Write a folder of one's own data with the masks that a model gives photos.

    Args:
        segmenter: the model.
        by: what is stored with each mask.
        folder: the photos.
        photos: what is asked.
        out: a new folder, or that of an interrupted or earlier run of the same model, whose answers are used.
        least: masks of a lower score are left out.
        keep_absent: whether expressions that nothing fits are kept, as such.
        copy: whether the photos are copied; otherwise `images` in the new folder is a link to the folder.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: `least` is not in 0..1, or `out` lies within the folder of the photos.
        DataError: no mask is kept.
        OutputError: `out` holds something else, or cannot be written.
    """
    check_settings(folder, out, least)
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
            raise DataError(f"{out}: of {counted(len(answered), 'photo')} no mask is kept{_first(problems)}")
        _place_photos(folder, answered, out, copy=copy)
        write_text(out / TABLE, b"".join(map(_line, rows)).decode())
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        hint = "" if copy else "; links may not be allowed there: copy the photos (--copy)"
        raise OutputError(f"{out}: cannot be written: {error.strerror}{hint}") from None
    return Labels(
        photos=len(answered),
        masks=counts["masks"],
        absent=counts["absent"],
        nothing_fits=counts["nothing_fits"],
        below=counts["below"],
        problems=tuple(problems),
    )


def check_settings(folder: Path, out: Path, least: float) -> None:
    """Check what `label` is given, so far as it needs no model.

    Raises:
        ConfigError: as `label`.
    """
    if not 0 <= least <= 1:
        raise ConfigError(f"the lowest score of a mask must lie in 0..1, got {least}")
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


def _place_photos(folder: Path, files: list[str], out: Path, *, copy: bool) -> None:
    images = out / "images"
    if not copy:
        if not images.exists():
            images.symlink_to(folder.resolve(), target_is_directory=True)
        return
    if images.is_symlink():  # of an earlier run
        images.unlink()
    for file in files:
        if not (images / file).exists():
            (images / file).parent.mkdir(parents=True, exist_ok=True)
            with replacing(images / file) as draft:
                draft.write_bytes((folder / file).read_bytes())


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def _first(problems: list[Problem]) -> str:
    return f"; the first problem: {problems[0]}" if problems else ""

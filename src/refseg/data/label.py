"""Labels photos with the masks of any model, as a folder of one's own data (`formats.folder`) and for other tools.

Every answer is kept (`label_run`): so an interrupted run goes on where it stopped, and what is kept for training can be
chosen again without computing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from refseg.data.asked import Photo
from refseg.data.formats.record import Problem
from refseg.data.label_files import Labels, write_labels
from refseg.data.label_run import Labeller, LabelRun, add_answers, earlier_answers, save_run
from refseg.data.verdicts import Verdicts
from refseg.errors import ConfigError, ImageError, UnknownNameError
from refseg.files import unwritable
from refseg.inputs.read import read_image
from refseg.models.exported import find_export, read_export
from refseg.models.families import MODELS
from refseg.models.hub import resolve
from refseg.peers.stored import find_peer
from refseg.peers.table import peer_entry, refiner_part
from refseg.segmenter import BaseSegmenter
from refseg.tiles import check_side, segment_tiles
from refseg.writers.formats import FORMATS

__all__ = ["check_settings", "label", "labeller"]

NOT_STATED = "not stated"


def labeller(model: str, refine: str | None, segmenter: BaseSegmenter, tile: int | None = None) -> Labeller:
    """Return what makes the masks of a model.

    Args:
        model: as it was loaded.
        refine: what refines its masks, if anything does.
        segmenter: the loaded model.
        tile: side of the tiles that a photo is asked in, pixels; None: the whole photo.
    """
    if (peer := find_peer(model)) is not None:
        entry = peer_entry(peer.peer)
        revision, licence = " ".join(part.source for part in entry.parts), entry.licence
    else:
        revision, licence = segmenter.fingerprint, _own_licence(model)
    if refine is not None:
        part = refiner_part(refine)
        revision, licence = f"{revision} {part.source}", ", ".join(dict.fromkeys((licence, part.licence)))
    return Labeller(model=model, refine=refine, revision=revision, licence=licence, tile=tile)


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
    problems: Iterable[Problem] = (),
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
        by: what is stored with each mask; its `tile` says whether photos are asked tile by tile.
        folder: the photos.
        photos: what is asked.
        out: a new folder, or that of an interrupted or earlier run of the same model, whose answers are used, and what
            a person has decided on them.
        problems: photos and rows that were left out before.
        formats: of other tools, each written into a folder of its name (see `writers.formats`).
        least: masks of a lower score are left out.
        review_below: masks of a lower score are listed for review, and so are expressions that nothing fits.
        keep_absent: whether expressions that nothing fits are kept, as such.
        separate: whether each connected component of a mask is an object of its own in the formats of other tools.
        copy: whether the photos are copied; otherwise `images` in the new folder is a link to the folder.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: a score is not in 0..1, a tile is too small, `out` lies within the folder of the photos, or a
            library is missing.
        UnknownNameError: there is no such format.
        DataError: no mask is kept.
        OutputError: `out` holds something else, or cannot be written.
    """
    check_settings(folder, out, formats, least, review_below, by.tile)
    photos, problems = list(photos), list(problems)
    try:
        answers = earlier_answers(out, by)
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
            answers[photo.file] = _answers(segmenter, image, photo.expressions, by.tile)
            add_answers(out, photo.file, answers[photo.file])
    except OSError as error:
        raise unwritable(out, error) from None
    run = LabelRun(
        labeller=by,
        photos=tuple(photos),
        problems=tuple(problems),
        formats=tuple(formats),
        least=least,
        review_below=review_below,
        keep_absent=keep_absent,
        separate=separate,
        copy=copy,
    )
    save_run(run, out)
    return write_labels(folder, run, answers, Verdicts(out), out)


def check_settings(
    folder: Path,
    out: Path,
    formats: Sequence[str] = (),
    least: float = 0.0,
    review_below: float = 0.5,
    tile: int | None = None,
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
    if tile is not None:
        check_side(tile)
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{out}: lies within the folder of the photos; name a folder elsewhere")


def _answers(
    segmenter: BaseSegmenter, image: Image.Image, expressions: Sequence[str], tile: int | None
) -> list[dict[str, Any]]:
    if tile is not None:
        found = segment_tiles(segmenter, image, expressions, tile)
        return [{"text": one.expression, "score": round(one.score, 6), "rle": one.rle} for one in found]
    return [
        {"text": one.expression, "score": round(one.score, 6), "rle": None if one.empty else one.rle}
        for one in segmenter.segment(segmenter.encode(image), expressions)
    ]

"""What a person decides on: the answers of a run, those first that should be looked at, and their verdicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refseg.data.label_files import PHOTOS, Labels, write_labels
from refseg.data.label_run import Labeller, open_run
from refseg.data.verdicts import Correction, Verdict, Verdicts
from refseg.errors import DataError
from refseg.inputs.read import read_image
from refseg.masks import decode_rle
from refseg.serve.answer import MAP_SIDE, grey_png
from refseg.values import Prediction
from refseg.writers.overlay import fitted
from refseg.writers.result import OVERLAY_SIDE

__all__ = ["Item", "Queue"]

QUALITY = 90
"""Of the photos that are shown, as JPEG."""
LETTERS = {None: "-", True: "k", False: "d"}
"""What stands for no verdict, for one that keeps an answer, and for one that drops it, in an overview."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """The answer to an expression about a photo."""

    file: str
    """Of the photo, relative to the folder of photos."""
    text: str
    """The expression."""
    score: float
    rle: dict[str, Any] | None
    """None: nothing fits."""
    reason: str | None
    """Why a person should look at it; None: there is no reason."""


class Queue:
    """The answers of a run in the order in which a person sees them.

    Those that a person should look at come first, each group in the order of the run, so that the answers about a photo
    stay together. Files are opened by the number of an item only, never by a name that a client sends.

    Args:
        folder: of the run.

    Raises:
        DataError: it is none of a run, or one that is not finished or is broken.
        OutputError: its answers or verdicts cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._run, self._answers = open_run(folder)
        self.folder, self.verdicts = folder, Verdicts(folder)
        # An expression that is asked twice of a photo has one answer, and one verdict.
        items = {
            (photo.file, answer["text"]): Item(file=photo.file, reason=self._run.reason(answer), **answer)
            for photo in self._run.photos
            for answer in self._answers.get(photo.file, ())
        }
        self.items = sorted(items.values(), key=lambda item: item.reason is None)
        self._numbers = {(item.file, item.text): number for number, item in enumerate(self.items)}

    @property
    def labeller(self) -> Labeller:
        """What answered."""
        return self._run.labeller

    def overview(self) -> dict[str, Any]:
        """Return the number of all items and of those to look at, and a letter for the verdict of each item."""
        verdicts = [self._verdict(number) for number in range(len(self.items))]
        return {
            "name": self.folder.resolve().name,
            "count": len(self.items),
            "to_review": sum(item.reason is not None for item in self.items),
            "verdicts": "".join(LETTERS[None if one is None else one.kept] for one in verdicts),
        }

    def about(self, number: int) -> dict[str, Any]:
        """Return an item, and what was decided on it, as JSON values."""
        item = self.items[number]
        verdict = self._verdict(number)
        answer = Correction(text=item.text, score=item.score, rle=item.rle, threshold=None)
        if verdict is not None and verdict.correction is not None:
            answer = verdict.correction
        return {
            "image": item.file,
            "asked": item.text,
            "reason": item.reason,
            "verdict": LETTERS[None if verdict is None else verdict.kept],
            "expression": answer.text,
            "score": answer.score,
            "threshold": answer.threshold,
            "mask": None if answer.rle is None else _shown(answer.rle),
        }

    def photo(self, number: int) -> bytes:
        """Return the photo of an item as a JPEG, at most `OVERLAY_SIDE` pixels at its longer side.

        Raises:
            ImageError: it is missing or broken.
        """
        file = BytesIO()
        fitted(read_image(self._path(number)), OVERLAY_SIDE).save(file, "JPEG", quality=QUALITY)
        return file.getvalue()

    def photo_file(self, number: int) -> bytes:
        """Return the photo's own file.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return self._path(number).read_bytes()
        except OSError as error:
            raise DataError(f"{self._path(number)}: cannot be read: {error.strerror}") from None

    def _path(self, number: int) -> Path:
        return self.folder / PHOTOS / self.items[number].file

    def knows(self, number: int, text: str, threshold: float | None) -> bool:
        """Return whether the answer to words about an item's photo, at a threshold, is known without the model."""
        own = text == self.items[number].text and threshold is None
        return own or self._corrected(number, text, threshold) is not None

    def _corrected(self, number: int, text: str, threshold: float | None) -> Correction | None:
        """Return the correction of an item, if it is the answer to the words at the threshold."""
        verdict = self._verdict(number)
        correction = None if verdict is None else verdict.correction
        return correction if correction and (correction.text, correction.threshold) == (text, threshold) else None

    def _verdict(self, number: int) -> Verdict | None:
        return self.verdicts.of(self.items[number].file, self.items[number].text)

    def drop(self, number: int) -> None:
        """Decide that there is no label of an item.

        Raises:
            OutputError: the verdict cannot be written.
        """
        item = self.items[number]
        self.verdicts.add(Verdict(image=item.file, text=item.text, kept=False))

    def keep(self, number: int, text: str, threshold: float | None, found: Prediction | None) -> None:
        """Decide that a label of an item is right: the answer of the run, or another one.

        Args:
            number: of the item.
            text: the expression of the label.
            threshold: of its mask; None: the model's own. The score stays that of the model's own.
            found: what the model answers to the expression; None: the answer is known (see `knows`).

        Raises:
            OutputError: the verdict cannot be written.
        """
        item = self.items[number]
        correction = self._corrected(number, text, threshold)
        if found is not None:
            chosen = found if threshold is None else _at_threshold(found, threshold)
            rle, score = None if chosen.empty else chosen.rle, round(found.score, 6)
            correction = Correction(text=text, score=score, rle=rle, threshold=threshold)
        self.verdicts.add(Verdict(image=item.file, text=item.text, kept=True, correction=correction))

    def undo(self) -> int | None:
        """Take the last verdict back, and return the number of its item; None: there is none.

        Raises:
            OutputError: it cannot be written.
        """
        while (verdict := self.verdicts.undo()) is not None:
            if (number := self._numbers.get((verdict.image, verdict.text))) is not None:
                return number
        return None

    def write(self) -> Labels:
        """Write the labels of the run anew.

        Raises:
            DataError: no mask is kept.
            OutputError: a format's folder was changed since it was written, or something cannot be written.
        """
        return write_labels(self.folder / PHOTOS, self._run, self._answers, self.verdicts, self.folder)


def _at_threshold(found: Prediction, threshold: float) -> Prediction:
    """Return a prediction with the mask of a threshold, whether or not the model would reject it."""
    decision = replace(found.decision, threshold=threshold, relative_threshold=None, calibration=None)
    return found.decided_by(decision)


def _shown(rle: dict[str, Any]) -> str:
    """Return a mask as a grey PNG in base64, at most `MAP_SIDE` pixels at its longer side."""
    mask = Image.fromarray(decode_rle(rle).astype(np.uint8) * 255)
    mask.thumbnail((MAP_SIDE, MAP_SIDE), Image.Resampling.BOX)
    return grey_png(mask)

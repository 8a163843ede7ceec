"""From an image and expressions to masks: load a model, encode an image once, ask as many expressions as needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from refseg.config import to_dict
from refseg.errors import ConfigError, UnknownNameError
from refseg.inputs.clip_bpe import expression_list
from refseg.inputs.preprocessing import Inputs
from refseg.inputs.read import ImageSource
from refseg.runtimes.base import Arithmetic, Runtime, probabilities
from refseg.runtimes.choose import ChosenRuntime, RuntimeName, check_torch, choose_runtime, open_graphs
from refseg.segmenter import BaseSegmenter
from refseg.values import Decision, DetectedBox, Encoding, PatchMap, Prediction, WordMap, WordSource

if TYPE_CHECKING:
    import torch

    from refseg.models.base import Model

__all__ = ["BUNDLED", "Predictor", "load", "predict"]

BUNDLED = "photos"
"""The model for photos that comes with the package."""
CHUNK = 16
"""Expressions computed together, which bounds the memory however many are asked."""


class Predictor(BaseSegmenter):
    """A model ready to answer (see `values.Segmenter`); its methods may be called from several threads at once.

    Args:
        runtime: computes the model.
        inputs: the model's preprocessing.
        decision: how its scores become masks.
        domain: the kind of images that it was trained on, such as `photos`; None: not known.
        family: of the model, such as `cris`; None: not known.
    """

    def __init__(
        self,
        runtime: Runtime,
        inputs: Inputs,
        decision: Decision,
        domain: str | None = None,
        family: str | None = None,
    ) -> None:
        super().__init__(decision, domain, family)
        self.runtime, self.inputs = runtime, inputs

    @classmethod
    def from_model(cls, model: Model, device: str | torch.device = "auto", *, domain: str | None = None) -> Predictor:
        """Return a predictor of a PyTorch model, which is moved to the device and put into evaluation mode.

        Args:
            model: the model.
            device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`, or a `torch.device`.
            domain: the kind of images that it was trained on, such as `photos`; None: not known.

        Raises:
            ConfigError: the device is unknown, or the machine has none.
        """
        from refseg.runtimes.torch import TorchRuntime

        return cls(TorchRuntime(model, device), model.inputs, model.decision, domain, model.family)

    @classmethod
    def from_export(
        cls, folder: Path, device: str | torch.device = "auto", *, runtime: ChosenRuntime = "onnx"
    ) -> Predictor:
        """Return a predictor of an exported model (see `refseg.export`), which PyTorch is not needed for.

        Args:
            folder: of the exported model.
            device: `auto` or `cpu`.
            runtime: `onnx` or `openvino`.

        Raises:
            ConfigError: the description of the model is broken, the library is not installed, or the device is another
                one.
            WeightsError: a graph is missing or broken.
        """
        from refseg.models.exported import read_export

        stored = read_export(folder)
        graphs = open_graphs(folder, runtime, str(device))
        return cls(graphs, stored.inputs, stored.decision, stored.domain, stored.family)

    @property
    def device(self) -> str:
        """The device that it computes on, such as `cpu`."""
        return self.runtime.device

    @property
    def runtime_name(self) -> str:
        """The runtime that computes it: `torch`, `onnx` or `openvino`."""
        return self.runtime.name

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing: encodings of the same fingerprint are interchangeable."""
        inputs = json.dumps(to_dict(self.inputs), sort_keys=True)
        return hashlib.sha256(f"{self.runtime.fingerprint} {inputs}".encode()).hexdigest()

    def _encode(self, images: Sequence[ImageSource], max_pixels: int) -> list[Encoding]:
        encodings = []
        for start in range(0, len(images), CHUNK):
            part = [self.inputs.pixels(image, max_pixels=max_pixels) for image in images[start : start + CHUNK]]
            pixels, frames = zip(*part, strict=True)
            arrays = self.runtime.encode(np.stack(pixels))
            encodings += [
                Encoding(self.fingerprint, frame, {name: array[i : i + 1] for name, array in arrays.items()})
                for i, frame in enumerate(frames)
            ]
        return encodings

    def _answer(self, image: Encoding, expressions: Sequence[str], decision: Decision) -> list[Prediction]:
        words = self.inputs.tokens(expressions)
        keys = [row[~hidden].tobytes() for row, hidden in zip(words.tokens, words.padding, strict=True)]
        distinct = {key: row for row, key in enumerate(keys)}  # the same tokens are answered once
        answers: dict[bytes, tuple[ndarray, DetectedBox | None]] = {}
        for start in range(0, len(distinct), CHUNK):
            part = list(distinct)[start : start + CHUNK]
            rows = [distinct[key] for key in part]
            answers |= zip(part, self._compute(image, words.tokens[rows], words.padding[rows]), strict=True)
        return [
            Prediction(expression, answers[key][0], image.frame, decision, truncated, detected=answers[key][1])
            for expression, key, truncated in zip(expressions, keys, words.truncated, strict=True)
        ]

    def _compute(
        self, image: Encoding, tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> list[tuple[Float[ndarray, "h w"], DetectedBox | None]]:
        """Return the probabilities for each expression, and the box of a model that detects one."""
        found = self.runtime.detect(image.arrays, tokens, padding)
        # Probabilities are restored to the image's size, not logits: so does the reference.
        if found is None:
            return [(row, None) for row in probabilities(self.runtime.decode(image.arrays, tokens, padding))]
        boxes = [
            DetectedBox((x0, y0, x1, y1), score)
            for (x0, y0, x1, y1), score in zip(
                (found.boxes * image.frame.size).tolist(), found.scores.tolist(), strict=True
            )
        ]
        return list(zip(probabilities(found.logits), boxes, strict=True))

    def ground(self, image: Encoding, expression: str, /) -> PatchMap:
        """Return the patch-level map of an expression (see `BaseSegmenter.ground`)."""
        self._check(image)
        if (found := self._patch_map(image, expression)) is None:
            return super().ground(image, expression)
        cosines, scores = found
        return PatchMap(expression, cosines, np.clip(image.frame.restore(scores), 0, 1))

    def _patch_map(
        self, image: Encoding, expression: str
    ) -> tuple[Float[ndarray, "g g"], Float[ndarray, "h w"]] | None:
        """Return the cosines of an expression, and the probabilities by them alone; None: the model has no map."""
        words = self.inputs.tokens([expression])
        found = self.runtime.ground(image.arrays, words.tokens, words.padding)
        if found is None:
            return None
        cosines, logits = found
        return cosines[0], probabilities(logits[0])

    @property
    def word_source(self) -> WordSource | None:
        """What `word_maps` returns: attention, or patch-level maps; None: the model has neither."""
        return self.runtime.word_source

    def word_maps(self, image: Encoding, expression: str, /) -> list[WordMap]:
        """Return where each word of an expression looks (see `BaseSegmenter.word_maps`)."""
        self._check(image)
        words = self.inputs.words(expression)
        if self.word_source == "attention":
            row = self.inputs.tokens([expression])
            (attention,) = self.runtime.attend(image.arrays, row.tokens, row.padding)
            scores = [attention[places.start : places.stop].sum(axis=0) for _, places in words]
        elif self.word_source == "patches":
            scores = [found[1] for word, _ in words if (found := self._patch_map(image, word)) is not None]
        else:
            return super().word_maps(image, expression)
        return [WordMap(word, map_, image.frame) for (word, _), map_ in zip(words, scores, strict=True)]


def load(
    model: str | os.PathLike[str] = BUNDLED,
    device: str | torch.device = "auto",
    *,
    runtime: RuntimeName = "auto",
    precision: Arithmetic = "exact",
    compiled: bool = False,
    refine: str | None = None,
) -> BaseSegmenter:
    """Load a model: the bundled one, or one by its name in `refseg models`, its folder, or its Hub name `user/name`.

    Models of refseg give a `Predictor`. The bundled ones and exported ones (`refseg.export`) need no PyTorch; other
    model folders need the extra `refseg[torch]`. Other people's models (`refseg.peers`) need the extra `refseg[peers]`;
    their files are downloaded once, after a line with their size and licence.

    A process that has loaded a model must not be forked afterwards: PyTorch's threads do not exist in the child, which
    may wait for them forever. Start other processes with the method `spawn`, or load the model in each of them.

    Args:
        model: the name or the path.
        device: `auto` (a CUDA GPU, else Apple's, else the processor), `cpu`, `cuda`, `cuda:1`, `mps`, or a
            `torch.device`.
        runtime: `torch` (PyTorch), `onnx` (ONNX Runtime) or `openvino` (both on the processor), or `auto`: the graphs
            of the model where it has any and is computed on the processor, by the faster of those two that are
            installed (measured once, see `docs/export.md`), else PyTorch.
        precision: `exact` computes in float32; `fast` multiplies numbers of bfloat16, on a device that has them (see
            `docs/speed.md`). For models that PyTorch computes; `refseg.export` sets that of an exported model.
        compiled: whether `torch.compile` compiles the model at first use; it takes minutes and needs a C++ compiler.
        refine: `sam`, `sam2` or `sam3`, which sharpens the borders of the masks; it needs the extra `refseg[peers]`.

    Raises:
        UnknownNameError: there is no such model, or no such refiner.
        WeightsError: it has no weights here, or they are broken.
        ConfigError: its config is broken, the device is unknown or missing, or the model needs an extra of refseg, or
            another runtime.
        DownloadError: it cannot be fetched.
    """
    if refine is not None:
        from refseg.peers.load import load_refiner
        from refseg.peers.refine import Refined

        refiner = load_refiner(refine, device)
        return Refined(load(model, device, runtime=runtime, precision=precision, compiled=compiled), refiner)
    from refseg.models.exported import find_export

    if (exported := find_export(model)) is not None:
        _check_as_stored(str(exported), precision, compiled)
        return Predictor.from_export(exported, device, runtime=choose_runtime(exported, runtime, str(device)))
    from refseg.models.hub import resolve
    from refseg.peers.stored import find_peer
    from refseg.peers.table import PEERS

    name_or_path = model if isinstance(model, str) else Path(model)
    if (peer := find_peer(name_or_path)) is not None:
        _check_as_stored(peer.peer, precision, compiled)
        if runtime not in ("auto", "torch"):
            raise ConfigError(f"{peer.peer} is computed by PyTorch, not by {runtime}")
        check_torch()
        from refseg.peers.load import load_peer

        return load_peer(peer, device)
    try:
        folder = resolve(name_or_path)
    except UnknownNameError as error:
        raise UnknownNameError(error.kind, error.name, (*error.known, *PEERS)) from None
    if runtime == "auto" and (precision != "exact" or compiled):
        runtime = "torch"
    if (chosen := choose_runtime(folder, runtime, str(device))) != "torch":
        _check_as_stored(f"{model} in {chosen}", precision, compiled)
        return Predictor.from_export(folder, device, runtime=chosen)
    from refseg.models.folder import load_model, read_folder
    from refseg.runtimes.torch import TorchRuntime

    network = load_model(folder)
    computed = TorchRuntime.of_own(network, device, precision=precision, compiled=compiled)
    return Predictor(computed, network.inputs, network.decision, read_folder(folder).domain, network.family)


def _check_as_stored(name: str, precision: str, compiled: bool) -> None:
    if precision != "exact" or compiled:
        raise ConfigError(f"{name}: is computed as it is stored; leave out the precision, and do not compile it")


def predict(
    image: ImageSource,
    expressions: Iterable[str],
    /,
    *,
    model: str | os.PathLike[str] = BUNDLED,
    device: str | torch.device = "auto",
    threshold: float | None = None,
    runtime: RuntimeName = "auto",
    precision: Arithmetic = "exact",
    refine: str | None = None,
) -> list[Prediction]:
    """Segment the regions of one image that expressions refer to, in one call.

    It loads the model each time: for several images, `load` it once.

    Args:
        image: see `Predictor.encode`.
        expressions: see `Predictor.segment`.
        model: see `load`.
        device: see `load`.
        threshold: see `Predictor.segment`.
        runtime: see `load`.
        precision: see `load`.
        refine: see `load`.

    Raises:
        RefsegError: as these three.
    """
    texts = expression_list(expressions)
    predictor = load(model, device, runtime=runtime, precision=precision, refine=refine)
    (encoding,) = predictor.encode([image])
    return predictor.segment(encoding, texts, threshold=threshold)

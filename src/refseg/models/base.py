"""The interface of every model: pixels and tokens in, logits out; images and expressions are encoded separately."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from refseg.config import from_dict, replace, to_dict
from refseg.encoders.pretrained import ClipSource
from refseg.errors import ConfigError, did_you_mean
from refseg.inputs.preprocessing import Inputs
from refseg.models.grid import STRIDE, to_quarter
from refseg.values import Decision

__all__ = ["AttentionModel", "BoxModel", "Model", "ModelSpec", "PatchMapModel", "check_clip_sizes"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model without its weights: its architecture, its preprocessing, and the decision about its scores."""

    config: Any
    """The sizes of the architecture, of the config class of a family."""
    inputs: Inputs
    decision: Decision

    def changed(self, **changes: Any) -> ModelSpec:
        """Return a copy with some fields of `config`, `inputs` or `decision` changed, such as `image_size=320`.

        Raises:
            ConfigError: None of the three has such a field, or a value does not fit.
        """
        parts: dict[str, Any] = {"config": self.config, "inputs": self.inputs, "decision": self.decision}
        fields = {field.name: name for name, part in parts.items() for field in dataclasses.fields(part) if field.init}
        for key in changes:
            if key not in fields:
                known = ", ".join(sorted(fields))
                raise ConfigError(f"unknown field {key!r}{did_you_mean(key, fields)}; known are: {known}")
        for name, part in parts.items():
            chosen = {key: value for key, value in changes.items() if fields[key] == name}
            parts[name] = replace(part, **chosen) if chosen else part
        return ModelSpec(**parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the three parts as JSON values, by name."""
        parts = {"config": self.config, "inputs": self.inputs, "decision": self.decision}
        return {name: to_dict(part) for name, part in parts.items()}

    @staticmethod
    def from_dict(config: type[Any], values: Mapping[str, Any], *, where: str) -> ModelSpec:
        """Return the spec that JSON values describe; other keys than those of the three parts are ignored.

        Args:
            config: The config class of the family.
            values: As `to_dict` returns them.
            where: The file of the values, for error messages.

        Raises:
            ConfigError: A part or one of its fields is missing, unknown or of a wrong type.
        """
        parts: dict[str, Any] = {}
        for name, kind in (("config", config), ("inputs", Inputs), ("decision", Decision)):
            if name not in values:
                raise ConfigError(f"{where}: field {name!r} is missing")
            parts[name] = from_dict(kind, values[name], where=f"{where}: {name}")
        return ModelSpec(**parts)


def check_clip_sizes(vision_dim: int, text_dim: int) -> None:
    """Check that two encoders have the same output dimension, that of CLIP's joint embedding space.

    Raises:
        ConfigError: They have not.
    """
    if vision_dim != text_dim:
        raise ConfigError(
            f"text.output_dim ({text_dim}) must equal vision.output_dim ({vision_dim}): both project into one space"
        )


class Model(nn.Module, ABC):
    """A referring image segmentation model: pixels and tokens in, logits out, in training and in evaluation.

    What depends on the image alone is computed by `encode_image`, once for all expressions about it; what depends on
    the expression alone by `encode_text`, once for all images; and the rest by `combine`. `decode` is the last two, and
    `forward` is all three.

    Args:
        config: The sizes of the architecture.
        inputs: The preprocessing of images and expressions.
        decision: How probabilities become a mask.

    Raises:
        ConfigError: The preprocessing does not fit the architecture.
    """

    family: ClassVar[str]
    """The name of the model family in a model folder's `config.json`."""
    stride: ClassVar[int] = STRIDE
    """Side in pixels of the image region that one logit stands for."""
    any_size: ClassVar[bool] = True
    """Whether images may have another side than `Inputs.image_size`; no with layers that read or write whole maps."""
    frozen_parts: tuple[str, ...] = ()
    """Names of the submodules with the weights of a pretrained CLIP that are not trained."""
    unrounded: tuple[str, ...] = ()
    """Names of the submodules that an export in int8 leaves as they are, with all that follows them."""
    clip: ClipSource | None = None
    """The CLIP that the encoders were loaded from; None if they were not, or if it is not known."""

    def __init__(self, config: Any, inputs: Inputs, decision: Decision) -> None:
        super().__init__()
        self.config, self.inputs, self.decision = config, inputs, decision
        step, longest = self.side_step(config), self.longest_expression(config)
        if inputs.image_size % step:
            raise ConfigError(f"image_size must be a multiple of {step}, got {inputs.image_size}")
        if inputs.word_length > longest:
            raise ConfigError(f"word_length must be at most {longest}, got {inputs.word_length}")

    @staticmethod
    @abstractmethod
    def side_step(config: Any) -> int:
        """Return the number of pixels that `image_size` must be a multiple of."""

    @staticmethod
    def longest_expression(config: Any) -> int:
        """Return the largest number of tokens that the model can read: that of CLIP's text encoder."""
        return int(config.text.context_length)

    @property
    def spec(self) -> ModelSpec:
        """The model without its weights."""
        return ModelSpec(config=self.config, inputs=self.inputs, decision=self.decision)

    def untrained(self) -> Model:
        """Return a new model of the same spec with random weights."""
        return type(self)(self.config, self.inputs, self.decision)

    @abstractmethod
    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> dict[str, Tensor]:
        """Compute everything that depends on the images alone.

        Returns:
            Tensors by name; the first axis is the image.
        """

    @abstractmethod
    def encode_text(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> dict[str, Tensor]:
        """Compute everything that depends on the expressions alone; `padding` is True where a token is padding.

        Returns:
            Tensors by name; the first axis is the expression. The second axis of `words` is the token; the others have
            no axis for tokens.
        """

    @abstractmethod
    def combine(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Compute the logits of B encoded expressions about B encoded images, or about a single one.

        Args:
            image: From `encode_image`.
            text: From `encode_text`.
            padding: True where a token is padding.

        Returns:
            Logits, S / `stride` on a side.
        """

    def decode(
        self, image: Mapping[str, Tensor], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Compute the logits of B expressions.

        Args:
            image: B encoded images, or a single one for all expressions.
            tokens: Of the expressions.
            padding: True where a token is padding.

        Returns:
            Logits, S / `stride` on a side.
        """
        return self.combine(image, self.encode_text(tokens, padding), padding)

    def forward(
        self, pixels: Float[Tensor, "B 3 S S"], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Return logits, S / `stride` on a side; `padding` is True where a token is padding."""
        return self.decode(self.encode_image(pixels), tokens, padding)


class BoxModel(Model):
    """A model that detects the box around the target too."""

    @abstractmethod
    def detect(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B 1 h w"], Float[Tensor, "B 4"], Float[Tensor, "B"]]:
        """Return the logits of the masks, the boxes, and their scores; the arguments are as in `combine`.

        Boxes are (x0, y0, x1, y1) as fractions of the side of the square, scores 0..1.
        """


class AttentionModel(Model):
    """A model whose feature map attends to the tokens of the expression."""

    @property
    def attends(self) -> bool:
        """Whether this model has the layers that do."""
        return True

    @abstractmethod
    def attend(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B 1 h w"], Float[Tensor, "B L g g"]]:
        """Return the logits, and how much each cell attends to each token; the arguments are as in `combine`.

        Attention is 0..1, and its sum over the tokens 1 in each cell; tokens of padding have none. `attends` must hold.
        """


class PatchMapModel(Model):
    """A model that compares image patches with the expression, and so computes a patch-level map too."""

    @abstractmethod
    def compare(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B g g"]:
        """Return the cosine similarity, -1..1, of each patch and the expression; the arguments are as in `combine`."""

    def ground(
        self, image: Mapping[str, Tensor], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B g g"]:
        """Return the cosine similarity, -1..1, of each patch and the expression; the arguments are as in `decode`."""
        return self.compare(image, self.encode_text(tokens, padding), padding)

    @abstractmethod
    def map_logits(self, cosines: Float[Tensor, "B g g"]) -> Float[Tensor, "B 1 g g"]:
        """Return the logits of a map of cosines, positive for patches that are predicted to belong to the target."""

    def patch_map(
        self, image: Mapping[str, Tensor], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B g g"], Float[Tensor, "B 1 h w"]]:
        """Return the cosines (see `ground`), and the logits by them alone, resized to S/4 on a side."""
        cosines = self.ground(image, tokens, padding)
        return cosines, to_quarter(self.map_logits(cosines).float(), self.inputs.image_size)

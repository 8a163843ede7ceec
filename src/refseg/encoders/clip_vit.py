"""CLIP's vision transformer: from pixels to features of a class token and a grid of patches.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", section 2.4: Dosovitskiy's
transformer with one more layer norm, on the embedded patches. CLIP projects its class token only; here all tokens are
projected, since segmentation needs the patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from refseg.encoders.layers import Preparable, ResidualAttentionBlock, resized_to
from refseg.errors import ConfigError, ImageError

__all__ = ["Patches", "ViTConfig", "VisionTransformer"]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Sizes of a vision transformer."""

    patch: int
    """Side of a patch in pixels."""
    width: int
    """Channels of a token."""
    layers: int
    heads: int
    output_dim: int
    """The dimension of CLIP's joint space."""
    pretrained_size: int = 224
    """Side in pixels of the images in pretraining, which determines the grid of the positional embedding."""

    def __post_init__(self) -> None:
        if min(self.patch, self.width, self.layers, self.heads, self.output_dim) < 1:
            raise ConfigError("vision: patch, width, layers, heads and output_dim must be positive")
        if self.pretrained_size < self.patch or self.pretrained_size % self.patch:
            raise ConfigError(
                f"vision: pretrained_size must be a multiple of the patch ({self.patch}), got {self.pretrained_size}"
            )
        if self.width % self.heads:
            raise ConfigError(f"vision: {self.heads} heads do not divide a width of {self.width}")

    @property
    def grid(self) -> int:
        """The number of patches on a side of the images in pretraining."""
        return self.pretrained_size // self.patch


class Patches(NamedTuple):
    """The features of an image: of the class token first, then of the patches, row by row."""

    tokens: Float[Tensor, "B T E"]
    """The features of all tokens in the joint space."""
    kept: tuple[Float[Tensor, "B T D"], ...]
    """The features after the requested blocks, in the requested order."""


class VisionTransformer(Preparable):
    """The image encoder, with OpenAI's key names."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width = config.width
        self.patch, self.grid = config.patch, config.grid
        self.conv1 = nn.Conv2d(3, width, config.patch, stride=config.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            ResidualAttentionBlock(width, config.heads) for _ in range(config.layers)
        )
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, config.output_dim))
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=width**-0.5)

    def prepare(self, side: int) -> None:
        """Resize the embeddings to the grid of square images of one size."""
        self.grid = side // self.patch
        resized = resized_to(self.positional_embedding, self.grid)
        self.positional_embedding = nn.Parameter(resized, requires_grad=False)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks, for models that run them one by one between `embed` and `project`."""
        resblocks = self.transformer.resblocks
        assert isinstance(resblocks, nn.ModuleList)
        return resblocks

    def embed(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B T D"]:
        """Return the input of the first block: T = 1 + (S/patch)**2 tokens of normalised pixels, the class token first.

        Raises:
            ImageError: S is not a multiple of the patch.
        """
        side = pixels.shape[-1]
        if side % self.patch:
            # The convolution would ignore the rest of the image, and masks would be displaced.
            raise ImageError(f"an image of {side} pixels on a side cannot be cut into patches of {self.patch}")
        patches = self.conv1(pixels)
        first = self.class_embedding.to(patches.dtype).expand(pixels.shape[0], 1, -1)
        tokens = torch.cat([first, patches.flatten(2).mT], dim=1)
        normed: Tensor = self.ln_pre(tokens + self._positions(side // self.patch).to(tokens.dtype))
        return normed

    def project(self, tokens: Float[Tensor, "B T D"]) -> Float[Tensor, "B T E"]:
        """Return the output of the last block in CLIP's joint space."""
        projected: Tensor = self.ln_post(tokens) @ self.proj
        return projected

    def forward(self, pixels: Float[Tensor, "B 3 S S"], keep: tuple[int, ...] = ()) -> Patches:
        """Return the features of T = 1 + (S/patch)**2 tokens.

        Args:
            pixels: Normalised pixels; S is a multiple of the patch. Positional embeddings are resized to their grid.
            keep: Numbers of the blocks whose output is returned too; 1 is the first block.

        Raises:
            ConfigError: There is no block of such a number.
            ImageError: S is not a multiple of the patch.
        """
        blocks = self.blocks
        if any(not 1 <= number <= len(blocks) for number in keep):
            raise ConfigError(f"keep: the blocks have the numbers 1..{len(blocks)}, got {list(keep)}")
        tokens, kept = self.embed(pixels), {}
        for number, block in enumerate(blocks, start=1):
            tokens = block(tokens)
            if number in keep:
                kept[number] = tokens
        return Patches(self.project(tokens), tuple(kept[number] for number in keep))

    def _positions(self, grid: int) -> Float[Tensor, "T D"]:
        """Return the positional embeddings of a grid with this number of patches on a side, the class token's first."""
        if grid == self.grid:
            return self.positional_embedding
        return resized_to(self.positional_embedding, grid)

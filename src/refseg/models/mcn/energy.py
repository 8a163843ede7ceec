"""CEM: consistency energy maximisation, which makes both tasks attend to the same place (MCN, section 3.2)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ConsistencyEnergy"]

SMALLEST = 1e-6
"""Of a squared length, and of the distance of a similarity from 0 and 1."""


class ConsistencyEnergy(nn.Module):
    """The expected similarity of a position of one task and a position of the other, by the attention of each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = nn.Conv2d(width, 1, 1)
        self.box = nn.Conv2d(width, 1, 1)

    def forward(
        self, of_mask: Float[Tensor, "B C H W"], of_box: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B n"], Float[Tensor, "B N n"]]:
        """Return the attention over the positions of each task, and their similarities, 0..1 (equations 4 to 7)."""
        attention_s = self.mask(of_mask).flatten(1).softmax(dim=-1)
        attention_c = self.box(of_box).flatten(1).softmax(dim=-1)
        cosines = _unit(of_mask.flatten(2)).mT @ _unit(of_box.flatten(2))
        return attention_s, attention_c, ((cosines + 1) / 2).clamp(SMALLEST, 1 - SMALLEST)

    def energy(self, of_mask: Float[Tensor, "B C H W"], of_box: Float[Tensor, "B C h w"]) -> Float[Tensor, "B"]:
        """Return the energy that the loss maximises, 0..1 (equation 8)."""
        attention_s, attention_c, similarities = self(of_mask, of_box)
        energy: Tensor = (attention_s[:, None] @ similarities @ attention_c[:, :, None])[:, 0, 0]
        return energy


def _unit(x: Float[Tensor, "B C N"]) -> Float[Tensor, "B C N"]:
    return x / x.square().sum(dim=1, keepdim=True).clamp(min=SMALLEST).sqrt()

"""Adapters: small trained layers within the frozen blocks of a transformer (RISCLIP, backbone adapters)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Adapter", "adapter_pair"]


class Adapter(nn.Module):
    """A bottleneck, AD(x) = W_up ReLU(W_down x), which is added to its input; 0 at initialisation."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        nn.init.kaiming_normal_(self.down.weight, nonlinearity="relu")
        nn.init.zeros_(self.down.bias)
        # Only this layer is zero: if both were, neither would get a gradient.
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the change of T tokens."""
        added: Tensor = self.up(F.relu(self.down(x)))
        return added


def adapter_pair(width: int, hidden: int) -> nn.ModuleList:
    """Return the two adapters of a block: after its attention, and after its MLP."""
    return nn.ModuleList((Adapter(width, hidden), Adapter(width, hidden)))

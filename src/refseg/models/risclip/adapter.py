"""Backbone adapters: small layers beside the frozen ones of a transformer's block."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Adapter", "adapter_pair"]


class Adapter(nn.Module):
    """A bottleneck whose result is added to what it read: AD(x) = W_up ReLU(W_down x), nothing at initialisation."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        nn.init.kaiming_normal_(self.down.weight, nonlinearity="relu")
        nn.init.zeros_(self.down.bias)
        # The last layer alone: were both zero, no gradient would ever reach either.
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return what is to be added to T tokens."""
        added: Tensor = self.up(F.relu(self.down(x)))
        return added


def adapter_pair(width: int, hidden: int) -> nn.ModuleList:
    """Return a block's two adapters: after its attention, and after its MLP."""
    return nn.ModuleList((Adapter(width, hidden), Adapter(width, hidden)))

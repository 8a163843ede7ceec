"""What the rewritten projector gains: the whole forward with ours and with the published one.

By default of CRIS on CLIP's ResNet-50, at full size. Random weights; both are first shown to give the same logits.

python benchmarks/forward_speed.py [--out FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import refseg
from measure import machine, report, side_by_side, write


class GroupedProjector(nn.Module):
    """The published formulation: a 3x3 convolution with one group, and one kernel, for each expression."""

    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.like = projector

    def forward(self, vision: Tensor, sentence: Tensor) -> Tensor:
        pixels = self.like.mix(self.like.pixels(vision))
        predicted = self.like.kernel(sentence)
        batch, channels, height, width = pixels.shape
        kernel = predicted[:, :-1].reshape(batch, channels, 3, 3)
        together = pixels.reshape(1, batch * channels, height, width)
        return F.conv2d(together, kernel, predicted[:, -1], padding=1, groups=batch).transpose(0, 1)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cris-r50", help="a name from `refseg models` (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="write all timings there as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    torch.manual_seed(0)
    model = refseg.create_model(arguments.model).eval().to(memory_format=torch.channels_last)
    projectors = {"ours": model.projector, "published": GroupedProjector(model.projector)}
    side, length = model.inputs.image_size, model.inputs.word_length
    pixels = torch.randn(1, 3, side, side).to(memory_format=torch.channels_last)
    tokens = torch.randint(1, 49_406, (1, length))
    padding = torch.zeros(1, length, dtype=torch.bool)

    def forward(projector: nn.Module) -> Tensor:
        model.projector = projector
        return model(pixels, tokens, padding)

    torch.testing.assert_close(*map(forward, projectors.values()))
    results: dict[str, object] = {
        "model": arguments.model,
        "forward": report(
            f"{arguments.model}, one image of {side} x {side}, one expression, {arguments.threads} threads",
            side_by_side({name: lambda p=p: forward(p) for name, p in projectors.items()}, arguments.rounds),
            ("published", "ours"),
        ),
    }
    # From the map at stride 4 on, where the two differ.
    model.projector.like.pixels = nn.Identity()
    for batch in (1, 8):
        near = torch.randn(batch, model.projector.like.mix.in_channels, side // 4, side // 4).to(
            memory_format=torch.channels_last
        )
        sentence = torch.randn(batch, model.config.text.output_dim)
        results[f"last_convolutions_{batch}"] = report(
            f"Its last two convolutions alone, {batch} expression{'s' * (batch > 1)}",
            side_by_side({name: lambda p=p: p(near, sentence) for name, p in projectors.items()}, 2 * arguments.rounds),  # noqa: B023
            ("published", "ours"),
        )
    write(arguments.out, results)


if __name__ == "__main__":
    main()

"""CRIS' decoder in float32 and in bfloat16, with our batch-first attention and with PyTorch's `nn.MultiheadAttention`.

By default CRIS on CLIP's ResNet-50 and 16 expressions on one encoded image. Random weights.

python benchmarks/bfloat16_speed.py [--out FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import refseg
from measure import machine, report, side_by_side, write
from refseg.encoders.layers import Attention


def usual(
    self: Attention, query: Tensor, key: Tensor, value: Tensor, *, padding: Any = None, mask: Any = None
) -> Tensor:
    """What PyTorch computes with the same weights."""
    return nn.MultiheadAttention.forward(
        self, query, key, value, key_padding_mask=padding, attn_mask=mask, need_weights=False
    )[0]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cris-r50", help="a name from `refseg models` (default: %(default)s)")
    parser.add_argument("--expressions", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write all timings there as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    torch.manual_seed(0)
    model = refseg.create_model(arguments.model).eval().to(memory_format=torch.channels_last)
    side, length = model.inputs.image_size, model.inputs.word_length
    image = model.encode_image(torch.randn(1, 3, side, side).to(memory_format=torch.channels_last))
    tokens = torch.randint(1, 49_406, (arguments.expressions, length))
    tokens[:, -1] = 49_407
    padding = torch.zeros(arguments.expressions, length, dtype=torch.bool)

    def decode(*, half: bool, ours: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            if ours:
                return model.decode(image, tokens, padding)
            with mock.patch.object(Attention, "forward", usual):
                return model.decode(image, tokens, padding)

    torch.testing.assert_close(decode(half=False, ours=True), decode(half=False, ours=False), rtol=1e-3, atol=1e-3)
    kinds = {
        f"{precision}, {whose}": (lambda half=half, ours=ours: decode(half=half, ours=ours))
        for precision, half in (("float32", False), ("bfloat16", True))
        for whose, ours in (("nn.MultiheadAttention", False), ("ours", True))
    }
    results: dict[str, object] = {
        "model": arguments.model,
        "decode": report(
            f"{arguments.model}, {arguments.expressions} expressions on one encoded image, {arguments.threads} threads",
            side_by_side(kinds, arguments.rounds),
            ("bfloat16, nn.MultiheadAttention", "bfloat16, ours"),
        ),
    }
    write(arguments.out, results)


if __name__ == "__main__":
    main()

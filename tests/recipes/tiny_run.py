"""A run of a tiny CRIS as a script: torchrun starts processes, and a test kills them.

python tiny_run.py FOLDER '{"epochs": 2, ...}' [--shard]   writes the loss of each step to FOLDER/losses.jsonl
"""

import json
import sys
from pathlib import Path

import torch

from refseg.data.shapes import Shapes
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.inputs.preprocessing import Inputs
from refseg.models.cris.model import CRIS, CRISConfig
from refseg.training.config import TrainingConfig
from refseg.training.engine import Engine
from refseg.training.loop import Validation, train
from refseg.values import Decision

VALUES = {
    "epochs": 2,
    "steps_per_epoch": 4,
    "batch_size": 4,
    "expressions_per_image": 3,
    "learning_rate": 1e-3,
    "backbone_factor": 1.0,
    "max_norm": 0.1,
    "seed": 5,
    "validation_images": 2,
}


class First:
    """The first images of a data set."""

    def __init__(self, data, num_images):
        self.data, self.num_images = data, num_images

    def samples_of(self, index):
        assert index < self.num_images
        return self.data.samples_of(index)


def tiny(dropout):
    torch.manual_seed(1)
    config = CRISConfig(
        vision=ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=2, output_dim=16, pretrained_size=64),
        text=TextConfig(width=16, heads=2, layers=1, output_dim=16),
        neck_channels=(8, 16, 32),
        decoder_layers=1,
        decoder_heads=2,
        decoder_hidden=32,
        dropout=dropout,
    )
    return CRIS(config, Inputs(image_size=64, word_length=17), Decision(threshold=0.35))


def main():
    folder, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    sys.modules["tensorboard"] = None  # its import takes seconds
    model = tiny(changes.pop("dropout", 0.0))
    usual = Engine.step

    def step(self, batches, number):
        loss = usual(self, batches, number)
        if self.processes.is_main:
            with (folder / "losses.jsonl").open("a") as file:
                file.write(json.dumps({"step": number, "loss": float(loss)}) + "\n")
        return loss

    Engine.step = step
    folder.mkdir(parents=True, exist_ok=True)
    train(
        model,
        TrainingConfig(**VALUES | changes),
        First(Shapes("train"), 12),
        Validation(data=First(Shapes("val"), 4)),
        folder,
        device="cpu",
        shard="--shard" in sys.argv,
        show=False,
    )


if __name__ == "__main__":
    main()

"""Compare training with several expressions per image and with one, for the same time, on generated scenes.

Both start from the same weights and train for the same minutes, in alternating turns of a few steps, so that other load
on the machine slows both; the learning rate follows the elapsed fraction of the time. Then both are scored on
`shapes:val`, with the usual threshold and with thresholds chosen for each of the two on other images.

python benchmarks/sentences_per_image.py [--clip runs/shapes-clip/last] [--minutes 10] [--out FILE]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from measure import machine, write
from refseg.config import replace
from refseg.data.batches import Batch, TrainOrder, TrainTransform, batches
from refseg.data.shapes import Shapes
from refseg.evaluation.metrics import summarise
from refseg.evaluation.thresholds import evaluate_with_own
from refseg.models.convert import adopt_clip
from refseg.models.families import build
from refseg.predictor import Predictor
from refseg.training.engine import Engine
from refseg.training.processes import Processes
from refseg.training.recipes import recipe

TURN = 10
"""Steps of a turn."""


class Learner:
    """A model in training, its batches, and the time that it took."""

    def __init__(self, expressions: int, images: int, seed: int, clip: str | None) -> None:
        found = recipe("shapes-ablation", expressions_per_image=expressions, batch_size=images, seed=seed)
        assert found.model is not None
        self.config = replace(found.training, drill=8)
        torch.manual_seed(seed)
        model = build(found.model)
        if clip is not None:
            adopt_clip(model, clip)
        self.engine = Engine(model, self.config, Processes(torch.device("cpu")))
        data = Shapes("train", drill=8)
        sizes = ((0, found.model.inputs.image_size),)
        order = TrainOrder(
            num_images=data.num_images, batch_size=images, expressions=expressions, sizes=sizes, seed=self.config.seed
        )
        self.batches: Iterator[Batch] = batches(
            TrainTransform(data, found.model.inputs), order, range(10**6), workers=1
        )
        self.seconds, self.steps, self.expressions = 0.0, 0, 0

    def go(self, budget: float) -> None:
        """Take a turn of steps."""
        for _ in range(TURN):
            started = time.perf_counter()
            elapsed = min(1.0, self.seconds / budget)
            factor = min(1.0, (self.steps + 1) / 50) * 0.5 * (1 + math.cos(math.pi * elapsed))
            for group in self.engine.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            batch = next(self.batches)
            self.engine.step([batch], self.steps)
            self.steps += 1
            self.expressions += len(batch.tokens)
            self.seconds += time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of training for each (default: %(default)s)")
    parser.add_argument("--images", type=int, default=12, help="in a batch (default: %(default)s)")
    parser.add_argument("--expressions", type=int, default=8, help="against one (default: %(default)s)")
    parser.add_argument("--scored", type=int, default=100, help="images of shapes:val (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clip", help="the CLIP whose encoders both start from (default: random weights)")
    parser.add_argument("--out", type=Path, help="write all figures there as JSON")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    budget = 60 * arguments.minutes
    learners = {
        count: Learner(count, arguments.images, arguments.seed, arguments.clip) for count in (1, arguments.expressions)
    }
    while any(learner.seconds < budget for learner in learners.values()):
        for learner in learners.values():
            if learner.seconds < budget:
                learner.go(budget)
    results: dict[str, dict[str, float | None]] = {}
    data = Shapes("val")
    for count, learner in learners.items():
        outcomes, again = evaluate_with_own(
            Predictor.from_model(learner.engine.model, "cpu"), data, arguments.scored, data.objects
        )
        summary, own = summarise(outcomes), summarise(again)
        results[str(count)] = {
            "steps": learner.steps,
            "images": learner.steps * arguments.images,
            "expressions": learner.expressions,
            "mean_iou": summary["mean_iou"],
            "pointing": summary["pointing"],
            "own_mean_iou": own["mean_iou"],
            "own_pointing": own["pointing"],
        }
        print(f"{count} an image: {results[str(count)]}")
    settings = {key: str(value) for key, value in vars(arguments).items() if key != "out"}
    write(arguments.out, {"settings": settings, "by_expressions_per_image": results})


if __name__ == "__main__":
    main()

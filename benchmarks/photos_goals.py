"""Measure what models know of photos, beside answers that look at no words: names, positions, human sentences, absence.

    python benchmarks/photos_goals.py photos shapes --data PHOTOS:test --out docs/results/photos/goals.json
    python benchmarks/photos_goals.py photos --data PHOTOS:test --root RefCOCO --human refcoco:testA refcoco:testB

PHOTOS is a folder of photos with masks and names (docs/photos.md). A model answers each expression with the thresholds
and the calibration that its folder has. Two baselines read no words: the largest annotated object of the photo, and an
ellipse in the middle of it.

- by name: expressions that only name what they refer to ("dog", "both dogs", "grass"); "animals" are the people and the
  five common animals, "macro" is the mean over all names with at least 10 photos in the data;
- among several: one of several things of the same name is referred to, by its side, rank, size, colour or relation;
- absent: names that are known not to be in the photo, recognised if the answer is that nothing fits, and "rejected"
  are names of things that are there: both of the frequent names, which are those of "macro", and of all names; "rare"
  names what photos hardly ever show, none of which was trained on; "unknown" is anything that is asked of photos in
  which nothing is annotated.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from tqdm import tqdm

import refseg
from measure import machine
from refseg.data.catalogue import open_data
from refseg.data.dataset import DataSet
from refseg.evaluation.evaluate import evaluate, make_outcome, target_of
from refseg.evaluation.metrics import Outcome
from refseg.evaluation.protocols import PROTOCOLS

ANIMALS = frozenset({"person", "dog", "cat", "horse", "sheep", "cow"})
PHOTOS_OF_A_NAME = 10
NAMED = frozenset({("name", "name"), ("several", "name"), ("several", "all")})
"""Style and form of expressions that only name what they refer to."""
PROTOCOL = PROTOCOLS["refseg"]

Answer = Callable[[Bool[ndarray, "N H W"] | None, tuple[int, int]], Bool[ndarray, "H W"]]
"""Returns a mask from the masks of all objects and the size of the photo."""


def largest_object(objects: Bool[ndarray, "N H W"] | None, size: tuple[int, int]) -> Bool[ndarray, "H W"]:
    """Return the mask of the largest annotated object; empty if there is none."""
    if objects is None:
        return np.zeros(size, bool)
    mask: Bool[ndarray, "H W"] = objects[objects.sum(axis=(1, 2)).argmax()]
    return mask


def middle(objects: Bool[ndarray, "N H W"] | None, size: tuple[int, int]) -> Bool[ndarray, "H W"]:
    """Return an ellipse in the middle, half as wide and high as the photo."""
    y, x = np.ogrid[: size[0], : size[1]]
    return ((2 * (2 * y + 1) / size[0] - 2) ** 2 + (2 * (2 * x + 1) / size[1] - 2) ** 2) <= 1


def answered(answer: Answer, data: DataSet, images: Iterable[int]) -> list[Outcome]:
    """Return the outcomes of an answer that reads no words."""
    outcomes = []
    for index in images:
        objects = data.objects(index)
        for sample in data.samples_of(index):
            image = sample.load_image()
            mask = answer(objects, (image.height, image.width))
            target = target_of(sample, PROTOCOL)
            outcomes += [
                make_outcome(sample, expression, mask, mask, target, objects, score=1.0, empty=not mask.any())
                for expression in sample.expressions
            ]
    return outcomes


def goals(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the figures of the table; None where there is no expression of the kind."""
    present = [one for one in outcomes if one.present]
    named = [one for one in present if (one.attributes["style"], one.attributes["form"]) in NAMED]
    several = [one for one in present if one.attributes["targets"] == 1 and one.attributes["distractors"]]
    absent = [one for one in outcomes if not one.present and one.attributes["style"] == "name"]
    rare = [one for one in absent if one.attributes["form"] == "rare"]
    absent = [one for one in absent if one.attributes["form"] != "rare"]
    shown = {one.image for one in present}
    unknown = [one for one in outcomes if one.image not in shown]
    by_name: dict[str, list[Outcome]] = defaultdict(list)
    for one in named:
        by_name[str(one.attributes["name"])].append(one)
    common = {
        name: of_name
        for name, of_name in sorted(by_name.items())
        if len({one.image for one in of_name}) >= PHOTOS_OF_A_NAME
    }
    return {
        "animals": _mean_iou(one for one in named if one.attributes["name"] in ANIMALS),
        "macro": _mean([float(_mean_iou(of_name) or 0) for of_name in common.values()]),
        "names": {name: {"mean_iou": _mean_iou(of_name), "n": len(of_name)} for name, of_name in common.items()},
        "several": _mean_iou(several),
        "several_pointing": _mean([float(one.points_at_target) for one in several if one.points_at_target is not None]),
        "several_by_form": {
            f"{style} {form}": {"mean_iou": _mean_iou(of_form), "n": len(of_form)}
            for (style, form), of_form in _grouped(several).items()
        },
        "frequent_absent_recognised": _empty(one for one in absent if one.attributes["name"] in common),
        "frequent_rejected": _empty(one for of_name in common.values() for one in of_name),
        "absent_recognised": _empty(absent),
        "rare_recognised": _empty(rare),
        "unknown_photo_recognised": _empty(unknown),
        "present_rejected": _empty(named),
        "n": {
            "by_name": len(named),
            "several": len(several),
            "absent": len(absent),
            "frequent_absent": sum(one.attributes["name"] in common for one in absent),
            "frequent": sum(map(len, common.values())),
            "rare": len(rare),
            "unknown_photo": len(unknown),
            "all": len(outcomes),
        },
    }


def _grouped(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for one in outcomes:
        groups[str(one.attributes["style"]), str(one.attributes["form"])].append(one)
    return dict(sorted(groups.items()))


def _mean_iou(outcomes: Iterable[Outcome]) -> float | None:
    return _mean([one.iou for one in outcomes])


def _empty(outcomes: Iterable[Outcome]) -> float | None:
    """Return the share that is answered with nothing."""
    return _mean([float(one.empty) for one in outcomes])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def main() -> None:
    """Print the table, and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="names of `refseg models`, or model folders")
    parser.add_argument("--data", required=True, metavar="FOLDER:SPLIT", help="photos with masks and names")
    parser.add_argument(
        "--human", nargs="*", default=(), metavar="DATASET:SPLIT", help="photos with sentences that people wrote"
    )
    parser.add_argument("--root", type=Path, help="the folder of the public data sets, for --human")
    parser.add_argument("--limit", type=int, help="the first photos only")
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    data = open_data(arguments.data)
    human = [open_data(name, arguments.root) for name in arguments.human]
    images = range(min(data.num_images, arguments.limit or data.num_images))
    systems: dict[str, Callable[[DataSet, Iterable[int]], list[Outcome]]] = {
        "largest object": lambda of, chosen: answered(largest_object, of, chosen),
        "middle": lambda of, chosen: answered(middle, of, chosen),
    }
    for model in arguments.models:
        segmenter = refseg.load(model)
        systems[model] = lambda of, chosen, segmenter=segmenter: evaluate(segmenter, of, chosen, of.objects)  # type: ignore[misc]
    results = {}
    print(f"{'':16} animals   macro several points   human  absent  reject  absent    rare unknown rejected")
    print(f"{'':16}                                        frequent        all")
    for name, system in systems.items():
        found = goals(system(data, tqdm(images, name, leave=False)))
        # The largest object cannot be read from data that do not know all objects.
        readable = [part for part in human if name != "largest object" or part.objects(0) is not None]
        sentences = [one for part in readable for one in system(part, range(part.num_images)) if one.present]
        found["human"], found["n"]["human"] = _mean_iou(sentences), len(sentences)
        results[name] = found
        row = (
            "animals",
            "macro",
            "several",
            "several_pointing",
            "human",
            "frequent_absent_recognised",
            "frequent_rejected",
            "absent_recognised",
            "rare_recognised",
            "unknown_photo_recognised",
            "present_rejected",
        )
        print(
            f"{name[-16:]:16}" + "".join("       -" if found.get(key) is None else f"{found[key]:8.3f}" for key in row)
        )
    if arguments.out:
        about = {"data": {"name": arguments.data, "photos": len(images), "digest": data.digest()}, "machine": machine()}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**about, "systems": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

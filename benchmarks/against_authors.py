"""Compare predicting with the authors' code: CRIS on CLIP's ResNet-50 at 416 x 416, and CLIPSeg of transformers.

All have random weights, the same on both sides, and run in one process, in alternating rounds: theirs in eager float32,
ours as `refseg.load` returns it, exact and fast, and what `refseg export --to openvino` writes in three precisions,
where OpenVINO is installed. Their code answers each expression alone, as their test program does. No expression is
asked twice. `files_to_masks.py` compares both from JPEG files to masks on disk.

python benchmarks/against_authors.py --authors CLONE [--out FILE]

CLONE is a clone of https://github.com/DerrickWang005/CRIS.pytorch.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from torch import nn

import refseg
import refseg.runtimes.export
from authors import authors_model
from measure import machine, report, side_by_side, write
from refseg.inputs.clip_bpe import Tokens
from refseg.masks import agreement
from refseg.models.base import Model
from refseg.models.clipseg.convert import from_transformers
from refseg.models.clipseg.model import clipseg
from refseg.models.exported import Precision
from refseg.models.families import build
from refseg.models.folder import save_model
from refseg.predictor import Predictor
from refseg.runtimes.export import Example, export
from refseg.runtimes.torch import TorchRuntime, has_bfloat16

CPU = torch.device("cpu")
EXACT = {"ours, exact", "OpenVINO, float32"}


def answering(model: Model) -> Model:
    """Give random weights statistics that fit noise, and outputs around the threshold, so that no mask is empty."""
    side, length = model.inputs.image_size, model.inputs.word_length
    tokens = torch.randint(1, 49_000, (2, length))
    tokens[:, -1] = 49_407
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        logits = model.train()(torch.randn(2, 3, side, side), tokens, tokens == 0)
        model.projector.kernel.bias[-1] -= logits.median() + 0.62
    return model.eval()


def loaded(model: Model, precision: str = "exact") -> Predictor:
    """Return what `refseg.load` would, of a copy of the model."""
    runtime = TorchRuntime.of_own(copy.deepcopy(model), CPU, precision=precision)
    return Predictor(runtime, model.inputs, model.decision)


def both_sides(clone: Path, side: int, folder: Path) -> tuple[nn.Module, dict[str, Predictor]]:
    """Return the authors' CRIS R50, and ours with the same random weights in each precision, for images of one size.

    Args:
        clone: of the authors' code.
        side: of the images, in pixels.
        folder: an empty one for exported models, which must stay while they are used.
    """
    torch.manual_seed(0)
    model = answering(refseg.create_model("cris-r50", dropout=0.0, image_size=side))
    theirs = authors_model(clone, model, "cris-r50").eval()
    ours = {"ours, exact": loaded(model)}
    if has_bfloat16(CPU):
        ours["ours, fast"] = loaded(model, "fast")
    else:
        print("fast is left out: this processor has no bfloat16")
    if find_spec("openvino") is not None:
        ours |= exported(model, folder)
    return theirs, ours


def exported(model: Model, folder: Path) -> dict[str, Predictor]:
    """Return a model exported to OpenVINO in each precision that this processor has instructions for."""
    source = save_model(model, folder / "model")
    # Probabilities of random weights are near the threshold everywhere, so that rounding changes them without limit.
    # Those in float32 are compared with the authors' below.
    refseg.runtimes.export.TOLERANCE = dict.fromkeys(refseg.runtimes.export.TOLERANCE, float("inf"))
    noise = np.random.default_rng(1).integers(0, 256, (4, 480, 640, 3), np.uint8)
    precisions: dict[Precision, list[Example]] = {"float32": []}
    if has_bfloat16(CPU):
        precisions["bfloat16"] = []
    precisions["int8"] = [(image, ["the cup on the left"]) for image in noise]
    found = {}
    for precision, examples in precisions.items():
        place = export(source, folder / precision, to="openvino", precision=precision, examples=examples)
        found[f"OpenVINO, {precision}"] = refseg.load(place)
    return found


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the options that the comparisons with the authors' code share, and parse the command line."""
    parser.add_argument("--authors", type=Path, required=True, metavar="CLONE", help="a clone of the authors' code")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=416)
    parser.add_argument("--out", type=Path, help="write all timings there as JSON")
    arguments = parser.parse_args()
    if not (arguments.authors / "model" / "segmenter.py").is_file():
        parser.error(f"{arguments.authors} is no clone of the authors' code: it has no model/segmenter.py")
    torch.set_num_threads(arguments.threads)
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    return arguments


def fresh(count: int) -> Iterator[list[str]]:
    """Yield lists of expressions, none of them twice."""
    numbers = itertools.count()
    while True:
        yield [f"the {next(numbers)} cups on the left" for _ in range(count)]


def answers(predictor: Predictor, pixels: ndarray, words: Tokens) -> ndarray:
    """Return the logits of expressions about one image, which is encoded once."""
    return predictor.runtime.decode(predictor.runtime.encode(pixels), words.tokens, words.padding)


def their_answers(theirs: nn.Module, pixels: ndarray, words: Tokens) -> ndarray:
    """Return the same, each expression by itself."""
    image = torch.from_numpy(pixels)
    with torch.inference_mode():
        return np.concatenate([theirs(image, torch.from_numpy(row[None]))[:, 0].numpy() for row in words.tokens])


def check_same(found: ndarray, expected: ndarray) -> None:
    """Check that both sides compute the same logits, in relation to the largest one: random weights make large ones."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * float(np.abs(expected).max()))


def compare_cris(ours: dict[str, Predictor], theirs: nn.Module, rounds: int, expressions: int) -> dict[str, object]:
    """Time both, from pixels and tokens to logits, after it is checked that they agree."""
    side = ours["ours, exact"].inputs.image_size
    pixels = np.random.default_rng(0).standard_normal((1, 3, side, side), dtype=np.float32)
    asked = fresh(expressions)

    def words() -> Tokens:
        return ours["ours, exact"].inputs.tokens(next(asked))

    same = words()
    logits = {name: answers(one, pixels, same) for name, one in ours.items()}
    expected = their_answers(theirs, pixels, same)
    for name in EXACT & ours.keys():
        check_same(logits[name], expected)
    runs: dict[str, Callable[[], object]] = {"theirs": lambda: their_answers(theirs, pixels, words())}
    runs |= {name: lambda one=one: answers(one, pixels, words()) for name, one in ours.items()}
    title = f"CRIS R50, one image of {side} x {side}, {expressions} expression{'s' * (expressions > 1)}"
    result = report(title, side_by_side(runs, rounds))
    medians = result["medians"]
    assert isinstance(medians, dict)
    threshold = ours["ours, exact"].decision.threshold
    masks = {name: 1 / (1 + np.exp(-one)) > threshold for name, one in logits.items()}
    result["ratios"] = {name: round(medians["theirs"] / medians[name], 4) for name in ours}
    result["iou_with_exact"] = {name: round(agreement(masks["ours, exact"], mine), 4) for name, mine in masks.items()}
    for name in ours:
        ratio, same_mask = result["ratios"][name], result["iou_with_exact"][name]
        print(f"  theirs / {name}: {ratio:.2f}; mean IoU of its masks with those of exact: {same_mask:.4f}")
    return result


def compare_clipseg(rounds: int, expressions: int) -> dict[str, object]:
    """Time CLIPSeg of transformers, which encodes the image for each expression, and ours."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    torch.manual_seed(0)
    # As in the published files; the other sizes are the defaults.
    config = CLIPSegConfig(vision_config={"patch_size": 16}, use_complex_transposed_convolution=True)
    theirs = CLIPSegForImageSegmentation(config).eval()
    model = build(clipseg())
    model.load_state_dict(from_transformers(theirs.state_dict(), Path("random weights")))
    predictor = loaded(model.eval())
    side = model.inputs.image_size
    pixels = np.random.default_rng(0).standard_normal((1, 3, side, side), dtype=np.float32)
    asked = fresh(expressions)

    def of_transformers(words: Tokens) -> ndarray:
        longest = int((~words.padding).sum(axis=1).max())  # its processor pads to the longest expression
        image = torch.from_numpy(pixels).expand(expressions, -1, -1, -1)
        tokens, mask = (torch.from_numpy(part[:, :longest]) for part in (words.tokens, ~words.padding))
        with torch.inference_mode():
            logits = theirs(input_ids=tokens, attention_mask=mask.long(), pixel_values=image).logits
        return logits.reshape(expressions, side, side).numpy()

    def words() -> Tokens:
        return predictor.inputs.tokens(next(asked))

    same = words()
    check_same(answers(predictor, pixels, same), of_transformers(same))
    runs: dict[str, Callable[[], object]] = {
        "transformers": lambda: of_transformers(words()),
        "ours, exact": lambda: answers(predictor, pixels, words()),
    }
    title = f"CLIPSeg, one image of {side} x {side}, {expressions} expressions"
    return report(title, side_by_side(runs, rounds), ("transformers", "ours, exact"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--expressions", type=int, default=16, help="against one (default: %(default)s)")
    arguments = parse(parser)
    results: dict[str, object] = {"settings": vars(arguments) | {"authors": "", "out": ""}}
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = both_sides(arguments.authors, arguments.side, Path(folder))
        for count in (1, arguments.expressions):
            results[f"cris, {count}"] = compare_cris(ours, theirs, arguments.rounds, count)
    results["clipseg"] = compare_clipseg(arguments.rounds, arguments.expressions)
    write(arguments.out, results)


if __name__ == "__main__":
    main()

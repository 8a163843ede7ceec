"""Compare a training step of CRIS with that of the authors' code: images per second and memory, in one run.

Their code is not part of this package: clone https://github.com/DerrickWang005/CRIS.pytorch and name the folder. Both
models get the same weights and the same batch; first it is checked that their losses are equal (in float32).

python benchmarks/training_speed.py --against FOLDER [--device cuda] [--batch 64] [--out FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import refseg
from authors import WIDTHS, authors_model
from measure import machine, report, side_by_side, write
from refseg.data.batches import Batch
from refseg.training.config import TrainingConfig
from refseg.training.engine import Engine
from refseg.training.processes import Processes


def batch_of(images: int, expressions: int, side: int, length: int) -> Batch:
    """Return a batch of noise; its masks have sharp edges, so that both ways to shrink them agree."""
    generator = torch.Generator().manual_seed(0)
    count = images * expressions
    tokens = torch.randint(1, 49_000, (count, length), generator=generator)
    tokens[:, 0], tokens[:, 8], tokens[:, 9:] = 49_406, 49_407, 0
    quarter = (torch.rand(count, 1, side // 4, side // 4, generator=generator) < 0.3).float()
    return Batch(
        pixels=torch.randn(images, 3, side, side, generator=generator),
        tokens=tokens,
        padding=tokens == 0,
        image_index=torch.arange(images).repeat_interleave(expressions),
        target=quarter,
        valid=torch.ones_like(quarter),
        weight=torch.ones(count),
    )


def step_of_theirs(model: nn.Module, batch: Batch, device: torch.device) -> Callable[[], Tensor]:
    """Return one step as their training does it: mixed precision on a GPU, Adam, their groups."""
    model = model.to(device)
    encoders = [p for n, p in model.named_parameters() if n.startswith("backbone") and "positional_embedding" not in n]
    known = {id(p) for p in encoders}
    rest = [p for p in model.parameters() if id(p) not in known]
    optimizer = torch.optim.Adam([{"params": encoders, "lr": 1e-5}, {"params": rest, "lr": 1e-4}], lr=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    pixels, tokens = batch.pixels.to(device), batch.tokens.to(device)
    target = batch.target.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3).to(device)

    def step() -> Tensor:
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            _, _, loss = model(pixels, tokens, target)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach().cpu()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="a clone of the authors' code")
    parser.add_argument("--model", default="cris-r50", choices=WIDTHS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=2, help="images, with one expression each")
    parser.add_argument("--side", type=int, default=416)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile ours with torch.compile")
    parser.add_argument("--out", type=Path, help="write all timings there as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = machine()
    device = torch.device(arguments.device)
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    torch.manual_seed(0)
    model = refseg.create_model(arguments.model, dropout=0.0, image_size=arguments.side)
    batch = batch_of(arguments.batch, 1, arguments.side, model.inputs.word_length)
    reference = step_of_theirs(authors_model(arguments.against, model, arguments.model), batch, device)
    steps: dict[str, Callable[[], Any]] = {"theirs": reference}
    kinds = ["float16", "bfloat16"] if device.type == "cuda" else ["float32", "bfloat16"]
    for precision in kinds:
        torch.manual_seed(0)
        config = TrainingConfig(
            steps_per_epoch=1, batch_size=arguments.batch, precision=precision, compile=arguments.compile
        )
        twin = refseg.create_model(arguments.model, dropout=0.0, image_size=arguments.side)
        twin.load_state_dict(model.state_dict())
        engine = Engine(twin, config, Processes(device))
        steps[f"ours, {precision}"] = lambda engine=engine: engine.step([batch], 0).cpu()
    first = {name: float(step()) for name, step in steps.items()}
    print("first losses:", {name: round(loss, 5) for name, loss in first.items()})
    for name, loss in first.items():
        # Half precision rounds, and random weights with a small batch amplify that.
        assert abs(loss / first["theirs"] - 1) < (1e-3 if name.endswith("float32") else 0.2), name
    memory = {}
    if device.type == "cuda":
        for name, step in steps.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            memory[name] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 2)
        print("GiB of a step without weights and optimizer:", memory)
    timed = report(
        f"{arguments.model}, a step of {arguments.batch} images of {arguments.side} x {arguments.side} on {device}",
        side_by_side(steps, arguments.rounds),
    )
    medians: Any = timed["medians"]
    for name, seconds in medians.items():
        print(f"  {name}: {arguments.batch / seconds:.2f} images/s, {medians['theirs'] / seconds:.2f} times theirs")
    results = {"settings": vars(arguments) | {"against": "", "out": ""}, "first_losses": first, "memory": memory}
    write(arguments.out, results | {"step": timed} | ({"gpu": about["gpu"]} if "gpu" in about else {}))


if __name__ == "__main__":
    main()

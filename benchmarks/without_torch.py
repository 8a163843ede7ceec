"""What predicting costs with PyTorch, and with ONNX Runtime alone: size of the installation, start and memory.

python benchmarks/without_torch.py [--model shapes] [--rounds 7] [--out FILE]

The model is exported first. The sizes are those of the packages in this environment that refseg requires, with what
they require in turn; the second is that of refseg[onnx] if it did not require PyTorch.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import refseg
from measure import machine, report, side_by_side, write
from refseg.data.shapes import EXAMPLE

# The operating system's own count of a child begins with the memory of its parent; on Linux this one does not.
PROGRAM = """
import re, sys
from pathlib import Path
from refseg.cli.main import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""
EXPRESSIONS = ("the top ring", "the bottom ring", "the blue star", "the leftmost ring") * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write all figures there as JSON")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    results: dict[str, object] = {"model": arguments.model, "megabytes": sizes()}
    with tempfile.TemporaryDirectory() as folder:
        models = {"PyTorch": arguments.model, "ONNX Runtime": str(refseg.export(arguments.model, Path(folder, "onnx")))}
        for count in (1, len(EXPRESSIONS)):
            words = EXPRESSIONS[:count]
            peaks: dict[str, list[int]] = {name: [] for name in models}

            def predict(name: str, words: tuple[str, ...] = words, peaks: Mapping[str, list[int]] = peaks) -> None:
                peaks[name].append(peak_of_predict(models[name], words, folder))

            runs = {name: lambda name=name: predict(name) for name in models}
            title = f"refseg predict from start to end, {count} expression{'s' * (count > 1)}"
            seconds = report(title, side_by_side(runs, arguments.rounds), ("PyTorch", "ONNX Runtime"))
            memory = {name: round(statistics.median(values)) for name, values in peaks.items()}
            print(f"  peak memory in MiB: {memory}")
            results[f"{count} expressions"] = {**seconds, "peak_MiB": memory}
    write(arguments.out, results)


def peak_of_predict(model: str, words: tuple[str, ...], folder: str) -> int:
    """Run the command and return the most memory that it had, MiB."""
    predict = ["predict", str(EXAMPLE), *words, "--model", model, "--no-overlay"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *predict], cwd=folder, capture_output=True, check=True)
    return int(done.stderr.splitlines()[-1]) // 1024


def sizes() -> dict[str, float]:
    """Print and return the megabytes of the installation of both ways."""
    whole, core = packages("refseg", ()), packages("refseg", ("onnx",), without="torch")
    found = {"PyTorch": sum(whole.values()), "ONNX Runtime": sum(core.values())}
    print("\nInstalled, MB")
    for name, parts in (("PyTorch", whole), ("ONNX Runtime", core)):
        largest = sorted(parts, key=lambda part: -parts[part])[:6]
        print(f"  {name}: {found[name]:.0f}, of which {', '.join(f'{part} {parts[part]:.0f}' for part in largest)}")
    print(f"  PyTorch / ONNX Runtime: {found['PyTorch'] / found['ONNX Runtime']:.2f}")
    return {name: round(value, 1) for name, value in found.items()}


def packages(name: str, extras: tuple[str, ...], without: str = "") -> dict[str, float]:
    """Return the megabytes of a package and of all that it requires, by name."""
    found: dict[str, float] = {}
    waiting = [(name, extras)]
    while waiting:
        name, extras = waiting.pop()
        package = metadata.distribution(name)
        if name not in found:
            files = [Path(str(file.locate())) for file in package.files or ()]
            found[name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
        for text in package.requires or ():
            needed = Requirement(text)
            other = canonicalize_name(needed.name)
            wanted = needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras or ("",))
            if wanted and other != without and other not in found:
                waiting.append((other, tuple(needed.extras)))
    return found


if __name__ == "__main__":
    main()

"""What predicting costs with PyTorch, and with ONNX Runtime alone: size of the installation, start and memory.

python benchmarks/without_torch.py [--model photos] [--rounds 7] [--out FILE]

The sizes are those of the packages in this environment that refseg[torch] and refseg require, with what they require in
turn.
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
RUNTIMES = {"PyTorch": "torch", "ONNX Runtime": "onnx"}
EXPRESSIONS = ("the top ring", "the bottom ring", "the blue star", "the leftmost ring") * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="photos")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write all figures there as JSON")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    results: dict[str, object] = {"model": arguments.model, "megabytes": sizes()}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, len(EXPRESSIONS)):
            words = EXPRESSIONS[:count]
            peaks: dict[str, list[int]] = {name: [] for name in RUNTIMES}

            def predict(name: str, words: tuple[str, ...] = words, peaks: Mapping[str, list[int]] = peaks) -> None:
                peaks[name].append(peak_of_predict(arguments.model, RUNTIMES[name], words, folder))

            runs = {name: lambda name=name: predict(name) for name in RUNTIMES}
            title = f"refseg predict from start to end, {count} expression{'s' * (count > 1)}"
            seconds = report(title, side_by_side(runs, arguments.rounds), ("PyTorch", "ONNX Runtime"))
            memory = {name: round(statistics.median(values)) for name, values in peaks.items()}
            print(f"  peak memory in MiB: {memory}")
            results[f"{count} expressions"] = {**seconds, "peak_MiB": memory}
    write(arguments.out, results)


def peak_of_predict(model: str, runtime: str, words: tuple[str, ...], folder: str) -> int:
    """Run the command and return the most memory that it had, MiB."""
    predict = ["predict", str(EXAMPLE), *words, "--model", model, "--runtime", runtime, "--no-overlay"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *predict], cwd=folder, capture_output=True, check=True)
    return int(done.stderr.splitlines()[-1]) // 1024


def sizes() -> dict[str, float]:
    """Print and return the megabytes of the installation of both ways."""
    whole, core = packages("refseg", ("torch",)), packages("refseg", ())
    found = {"PyTorch": sum(whole.values()), "ONNX Runtime": sum(core.values())}
    print("\nInstalled, MB")
    for name, parts in (("PyTorch", whole), ("ONNX Runtime", core)):
        largest = sorted(parts, key=lambda part: -parts[part])[:6]
        print(f"  {name}: {found[name]:.0f}, of which {', '.join(f'{part} {parts[part]:.0f}' for part in largest)}")
    print(f"  PyTorch / ONNX Runtime: {found['PyTorch'] / found['ONNX Runtime']:.2f}")
    return {name: round(value, 1) for name, value in found.items()}


def packages(name: str, extras: tuple[str, ...]) -> dict[str, float]:
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
            if wanted and other not in found:
                waiting.append((other, tuple(needed.extras)))
    return found


if __name__ == "__main__":
    main()

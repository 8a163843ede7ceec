"""`refseg bulk` is killed at random moments: the command itself, or one of its processes; the result is compared.

python benchmarks/bulk_kills.py [--runs 10] [--images 24] [--out FILE]

In half of the runs SIGKILL ends the command, which is then given again. In the other half it ends a process with a
model, and the same command has to go on by itself. Each result has to have all files of a run without Ray, byte for
byte, and no other. Exits with 1 if one differs. Needs psutil.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bulk import by_loop, make_source
from measure import machine, write

KINDS = ("done", "failed", "masks")
MODEL = "_Worker"
"""In the title that Ray gives to a process with a model."""
MOST_STARTS = 5
LONGEST_WAIT = 0.3
"""Seconds, about those of a shard."""


def command(photos: Path, words: Path, out: Path, arguments: argparse.Namespace) -> list[str]:
    given = [sys.executable, "-m", "refseg", "bulk", str(photos), str(out), "--expressions", str(words)]
    return [*given, "--shard", str(arguments.shard), "--workers", str(arguments.workers)]


def started(given: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(given, stdout=subprocess.DEVNULL, start_new_session=True)


def done(out: Path) -> int:
    return len(list((out / "done").glob("*.json"))) if out.exists() else 0


def wait_for(out: Path, shards: int, process: subprocess.Popen[bytes]) -> None:
    while done(out) < shards and process.poll() is None:
        time.sleep(0.01)


def processes_with_a_model(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if MODEL in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:  # it has ended
            continue
    return found


def finish(given: list[str]) -> int:
    """Give the command until it ends well, as where Ray itself cannot start on a busy machine; returns how often."""
    for times in range(1, MOST_STARTS + 1):
        if started(given).wait() == 0:
            return times
    raise SystemExit(f"{' '.join(given)}: does not end well")


def kill_command(given: list[str], out: Path, chance: random.Random, shards: int) -> dict[str, object]:
    """Kill the command after a random number of shards, within the next one, and give it again."""
    process = started(given)
    wait_for(out, chance.randrange(shards), process)
    time.sleep(chance.uniform(0, LONGEST_WAIT))
    if process.poll() is not None:  # Ray could not start, or all is done
        return {"killed": "nothing", "exit": process.wait()}
    process.kill()
    process.wait()
    return {"killed": "command", "shards_before": done(out), "starts": 1 + finish(given)}


def kill_worker(given: list[str], out: Path, chance: random.Random, shards: int) -> dict[str, object]:
    """Kill a process with a model after a random number of shards, within the next one; the command goes on itself."""
    process = started(given)
    wait_for(out, chance.randrange(shards), process)
    while process.poll() is None and not (workers := processes_with_a_model(process)):
        time.sleep(0.01)
    time.sleep(chance.uniform(0, LONGEST_WAIT))
    if process.poll() is not None:  # Ray could not start, or all is done
        return {"killed": "nothing", "exit": process.wait()}
    before = done(out)
    os.kill(chance.choice(workers).pid, signal.SIGKILL)
    return {"killed": "worker", "shards_before": before, "exit": process.wait()}


def files(out: Path) -> dict[str, bytes]:
    return {f"{kind}/{path.name}": path.read_bytes() for kind in KINDS for path in (out / kind).iterdir()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="of each kind (default: %(default)s)")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--shard", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--note", default="", help="on the machine; stored with the runs")
    parser.add_argument("--out", type=Path, help="write the runs there as JSON")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        photos, words = make_source(Path(folder), arguments.images)
        (photos / "broken.jpg").write_bytes(b"no image")
        shards = -(-(arguments.images + 1) // arguments.shard)
        os.environ["OMP_NUM_THREADS"] = "1"
        by_loop(photos, words, Path(folder, "loop"), arguments)
        expected = files(Path(folder, "loop"))
        for number in range(2 * arguments.runs):
            kill = kill_worker if number % 2 else kill_command
            for attempt in range(MOST_STARTS):
                out = Path(folder, f"out-{number}-{attempt}")
                result = kill(command(photos, words, out, arguments), out, chance, shards)
                if result["killed"] != "nothing":
                    break
            else:
                raise SystemExit("no process with a model could be killed")
            result["equal"] = result.get("exit", 0) == 0 and files(out) == expected
            results.append(result)
            print(result, flush=True)
    equal = sum(bool(result["equal"]) for result in results)
    print(f"{equal} of {len(results)} runs are complete and equal")
    about = f"python benchmarks/bulk_kills.py --runs {arguments.runs} --images {arguments.images}"
    result = {"command": about, "note": arguments.note, "equal": equal, "of": len(results), "runs": results}
    write(arguments.out, result)
    return 0 if equal == len(results) else 1


if __name__ == "__main__":
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    sys.exit(main())

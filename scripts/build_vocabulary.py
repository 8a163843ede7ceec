"""Write the merges of CLIP's vocabulary that CLIP uses, taken from the wheel of open_clip_torch 3.3.0 (MIT).

    pip download --no-deps open_clip_torch==3.3.0
    python scripts/build_vocabulary.py open_clip_torch-3.3.0-py3-none-any.whl

The wheel holds OpenAI's list of 262,145 merges; CLIP's vocabulary of 49,408 entries reaches the first 48,894 of them.
The same wheel gives the same bytes: the file carries neither a time nor a name.
"""

from __future__ import annotations

import argparse
import gzip
import zipfile
from pathlib import Path

MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
MERGES = 49_408 - 2 * 256 - 2  # the vocabulary without the single bytes, the bytes that end a word, start and end
OUTPUT = Path(__file__).parents[1] / "src/refseg/inputs/bpe_merges.txt.gz"


def main() -> None:
    """Read the wheel that is named on the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="open_clip_torch-3.3.0-py3-none-any.whl")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    arguments = parser.parse_args()

    with zipfile.ZipFile(arguments.wheel) as wheel:
        lines = gzip.decompress(wheel.read(MEMBER)).decode("utf-8").split("\n")
    merges = lines[1 : 1 + MERGES]  # the first line is a title
    if len(merges) != MERGES or any(len(merge.split(" ")) != 2 for merge in merges):
        raise SystemExit(f"{arguments.wheel}: {MEMBER} does not hold {MERGES} merges of two parts")
    with (
        arguments.output.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as file,
    ):
        file.write(("\n".join(merges) + "\n").encode("utf-8"))
    print(f"{arguments.output}: {len(merges)} merges, {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()

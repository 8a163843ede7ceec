"""Records a small part of values that were computed by the authors' code of EFN (fengguang94/CEFNet at 43b5294).

    python tests/data/record_efn.py efn.npz efn_state_dict.json

The first file holds the values: stages, logits, losses and norms of gradients, with weights and inputs made from seeds
as `tests/parity/test_efn.py` makes them. The second one holds the name and shape of each weight.
"""

import gzip
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
HEAD, STRIDE = 8, 8
"""Values of a stage that are kept of each sample, and the distance of the logits that are kept."""
WHOLE = ("theta", "edge_", "post_", "resize", "vcm.", "acm.", "after_", "full_")
"""Beginnings of names that are kept as they are."""
JSON = ("frozen_loss_parts", "frozen_grad_norms", "train64_loss_parts", "train64d_grad_norms")


def kept(name, values):
    """Return the part of an array that is recorded; None if nothing is."""
    if name == "logits":
        return values[..., ::STRIDE, ::STRIDE]
    if name.endswith("_head"):
        return values[:2, :HEAD]
    if name in JSON:
        rounded = {key: float(f"{value:.8g}") for key, value in json.loads(str(values)).items()}
        return np.frombuffer(gzip.compress(json.dumps(rounded).encode(), mtime=0), np.uint8)
    if values.dtype.kind == "U" or (name.endswith("_norms") and name not in JSON):
        return values if name.startswith(WHOLE) else None
    return values if values.size <= 6 or name.startswith(WHOLE) else None


if __name__ == "__main__":
    recorded, names = map(Path, sys.argv[1:])
    with np.load(recorded) as file:
        parts = {name: kept(name, file[name]) for name in file.files}
    np.savez_compressed(HERE / "efn.npz", **{name: part for name, part in parts.items() if part is not None})
    shapes = json.dumps(json.loads(names.read_text())).encode()
    (HERE / "efn_state_dict.json.gz").write_bytes(gzip.compress(shapes, mtime=0))

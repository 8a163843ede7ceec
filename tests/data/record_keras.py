"""Take the values that the tests need from those that were recorded with the authors' code of MCN and of VLT.

    python tests/data/record_keras.py FOLDER

FOLDER has `mcn.npz` and `vlt.npz`, with all values. They were recorded on a processor with weights made by a recipe
(`tests/parity/keras_recipe.py`): MCN (luogen1996/MCN, commit f7c3189) with Keras 2.2.4 and TensorFlow 1.14.0, VLT
(henghuiding/Vision-Language-Transformer, commit 9b24015) with Keras 2.3.1, TensorFlow 1.15.0 and keras-transformer
0.38.0. Of each stage there are shape, mean, standard deviation and the first 64 values of each sample, channel first.
`frozen64` values were computed with stored statistics, `train64` ones with those of the batch, both in double
precision.
"""

import sys
from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).parent
LEFT_OUT = ("words_", "train_loss", "train_grad", "frozen_", "eval_net_", "no_grad", "lr_of", "sigmoid")
"""Prefixes of values that are not tested: those in single precision are recorded in double precision too."""
KEPT = ("eval_net_det", "eval_net_seg")


def kept(name: str, values: np.ndarray) -> np.ndarray | None:
    """Return what is stored of a recorded value."""
    if name.startswith(LEFT_OUT) and name not in KEPT:
        return None
    if name == "logits":
        return values[:, :, ::3, ::3]  # VLT's are large
    return values


if __name__ == "__main__":
    for family in ("mcn", "vlt"):
        with np.load(Path(sys.argv[1]) / f"{family}.npz") as file:
            values = {name: kept(name, file[name]) for name in file.files}
        np.savez_compressed(
            OUTPUT / f"{family}_128.npz", **{name: value for name, value in values.items() if value is not None}
        )

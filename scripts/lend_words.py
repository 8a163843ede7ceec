"""Give a new CLIP with a vision transformer the text encoder of a trained one, to start `shapes-clip-vit` from.

    python scripts/lend_words.py runs/shapes-clip/last runs/lent
    refseg train shapes-clip-vit --init runs/lent 'freeze=["text"]' learning_rate=1e-3

Without pretraining a vision transformer learns shapes slowly, and until then the text encoder cannot tell their names
apart. With a trained, frozen text encoder only the image encoder has to learn, as in locked-image tuning (Zhai et al.,
CVPR 2022) with the encoders exchanged.
"""

import argparse

import torch

from refseg.models.clip_map.model import CLIPMap
from refseg.models.families import build
from refseg.models.folder import load_model, save_model
from refseg.training.recipes import recipe


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lender", help="the model folder of a trained CLIP")
    parser.add_argument("folder", help="the model folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of the new image encoder")
    arguments = parser.parse_args()
    lender, spec = load_model(arguments.lender), recipe("shapes-clip-vit").model
    assert spec is not None
    torch.manual_seed(arguments.seed)
    model = build(spec)
    assert isinstance(lender, CLIPMap), "the model must be a CLIP"
    assert isinstance(model, CLIPMap)
    model.text.load_state_dict(lender.text.state_dict())
    save_model(model, arguments.folder, name="lent", extra={"text_encoder": arguments.lender})


if __name__ == "__main__":
    main()

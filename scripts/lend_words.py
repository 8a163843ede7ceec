"""Give a new CLIP with a vision transformer the words of one that has learnt them, to start `shapes-clip-vit` from.

    python scripts/lend_words.py runs/shapes-clip/last runs/lent
    refseg train shapes-clip-vit --init runs/lent 'freeze=["text"]' learning_rate=1e-3

A transformer without pretraining learns to see shapes slowly, and as long as it does not, its words do not part either.
With words that are there already it only has to find what they mean, as one encoder of a pretrained pair does in
locked-image tuning (Zhai et al., CVPR 2022), with the encoders exchanged.
"""

import argparse

import torch

from refseg.models.clip_map.model import CLIPMap, CLIPMapConfig
from refseg.models.folder import load_model, save_model
from refseg.training.recipes import recipe


def main() -> None:
    """Read the arguments, and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lender", help="the model folder of a CLIP that has learnt")
    parser.add_argument("folder", help="the model folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of the new image encoder")
    arguments = parser.parse_args()
    lender, config = load_model(arguments.lender), recipe("shapes-clip-vit").model
    assert isinstance(lender, CLIPMap), "a CLIP has to be given"
    assert isinstance(config, CLIPMapConfig)
    torch.manual_seed(arguments.seed)
    model = CLIPMap(config)
    model.text.load_state_dict(lender.text.state_dict())
    save_model(model, arguments.folder, name="lent", extra={"words": arguments.lender})


if __name__ == "__main__":
    main()

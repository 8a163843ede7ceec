"""Record what transformers computes with a small CLIP that has a vision transformer, so that the tests need none of it.

    python -m venv hf && hf/bin/pip install transformers==5.23.0 torch numpy
    hf/bin/python tests/data/record_clip_vit.py

Recorded with transformers 5.23.0, torch 2.13.0 and numpy 2.4.6. The weights are random numbers, larger than those that
training starts from, so that attention looks somewhere and every layer shows in what comes out. They and the inputs are
recorded too, in half precision, which they have exactly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).with_name("clip_vit.npz")
SEED = 7
VISION = {"patch_size": 8, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32}
LENGTH, JOINT, END = 12, 20, 49
TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": LENGTH,
    "vocab_size": END + 1,
    "bos_token_id": END - 1,
    "eos_token_id": END,
}
# Sides of the images: CLIP's own grid, a finer one and a coarser one.
SIDES = (32, 40, 24)
KEPT = (0, 1, 3)


def weights(shapes: dict[str, tuple[int, ...]], draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw the weights: matrices that keep the size of what they multiply, and the rest about its usual value."""
    drawn = {}
    for name, shape in sorted(shapes.items()):
        values = draw.normal(size=shape)
        if len(shape) > 1 and not name.endswith(("token_embedding.weight", "position_embedding.weight")):
            values /= np.prod(shape[1:]) ** 0.5
        elif len(shape) == 1 and "class_embedding" not in name:
            values = values * 0.2 + (1 if "norm" in name and name.endswith("weight") else 0)
        drawn[name] = values.astype(np.float16)
    return drawn


def main() -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        vision_config=VISION | {"intermediate_size": 128, "hidden_act": "quick_gelu"},
        text_config=TEXT | {"intermediate_size": 96, "hidden_act": "quick_gelu"},
        projection_dim=JOINT,
    )
    model = CLIPModel(config).eval()
    draw = np.random.default_rng(SEED)
    drawn = weights({name: tuple(value.shape) for name, value in model.state_dict().items()}, draw)
    model.load_state_dict({name: torch.from_numpy(value).float() for name, value in drawn.items()})
    recorded = {f"weights/{name}": value for name, value in drawn.items()}

    # The last id is the end token. After it there is padding, or nothing; one expression has it twice.
    tokens = draw.integers(1, END, (3, LENGTH))
    tokens[0, 4], tokens[0, 5:] = END, 0
    tokens[1, -1] = END
    tokens[2, [6, 9]] = END
    recorded["tokens"] = tokens
    with torch.inference_mode():
        text = model.text_model(input_ids=torch.from_numpy(tokens))
        recorded["words"] = text.last_hidden_state.numpy()
        recorded["words_joint"] = model.text_projection(text.last_hidden_state).numpy()
        recorded["sentence"] = model.text_projection(text.pooler_output).numpy()
        for side in SIDES:
            pixels = draw.normal(size=(2, 3, side, side)).astype(np.float16)
            seen = model.vision_model(
                pixel_values=torch.from_numpy(pixels).float(),
                interpolate_pos_encoding=side != VISION["image_size"],
                output_hidden_states=True,
            )
            recorded[f"{side}/pixels"] = pixels
            # The pooled output is the class token after the last norm: CLIP's embedding of an image, once projected.
            recorded[f"{side}/image"] = model.visual_projection(seen.pooler_output).numpy()
            normed = model.vision_model.post_layernorm(seen.last_hidden_state)
            recorded[f"{side}/tokens"] = model.visual_projection(normed).numpy()
            # After so many blocks.
            recorded.update({f"{side}/after_{number}": seen.hidden_states[number].numpy() for number in KEPT})
    np.savez_compressed(OUTPUT, **recorded)


if __name__ == "__main__":
    main()

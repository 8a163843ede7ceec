"""CLIPs of a few channels, and the files that contain them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refseg.encoders.clip_resnet import ModifiedResNet, ResNetConfig
from refseg.encoders.clip_text import TextConfig, TextTransformer
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig

VISION = {
    "resnet": ResNetConfig(layers=(1, 2, 1, 1), width=4, heads=2, output_dim=16, pretrained_size=64),
    "vit": ViTConfig(patch=8, width=64, layers=3, heads=1, output_dim=16, pretrained_size=32),
}
TEXT = TextConfig(width=64, heads=1, layers=2, output_dim=16, context_length=12, vocabulary_size=50)


class Encoders(nn.Module):
    def __init__(self, vision="resnet", text=TEXT):
        super().__init__()
        vision = VISION.get(vision, vision) if isinstance(vision, str) else vision
        self.visual = VisionTransformer(vision) if isinstance(vision, ViTConfig) else ModifiedResNet(vision)
        self.text = TextTransformer(text)


@pytest.fixture(scope="session")
def make_encoders():
    """Builds both encoders: `make_encoders(vision="resnet", text=TEXT)`, with a name or a config."""
    return Encoders


@pytest.fixture
def encoders(request):
    """Both encoders, with a ResNet or as the test's parameter says, and weights that float16 represents exactly."""
    torch.manual_seed(0)
    encoders = Encoders(getattr(request, "param", "resnet"))
    for parameter in encoders.parameters():
        parameter.data = parameter.data.half().float()
    return encoders


@pytest.fixture
def state(encoders):
    """Their state dict under OpenAI's names, without the layer of CRIS."""
    visual = {f"visual.{key}": value for key, value in encoders.visual.state_dict().items() if "connect" not in key}
    return visual | encoders.text.state_dict()


class Scripted(nn.Module):
    """Contains a state dict under its names in modules, as OpenAI's archives do."""

    def __init__(self, state):
        super().__init__()
        for key, value in state.items():
            *path, name = key.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, Leaf())
                module = module._modules[part]
            module.register_buffer(name, value) if not value.is_floating_point() else module.register_parameter(
                name, nn.Parameter(value)
            )
        self.register_buffer("input_resolution", torch.tensor(64))
        self.register_buffer("context_length", torch.tensor(12))
        self.vocab_size = 50

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.input_resolution


class Leaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_mask = torch.full((3, 3), float("-inf")).triu(1)
        self.padding: list[int] = [0, 0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attn_mask


def write_archive(state, path, kind="scripted", half=True):
    """Write a TorchScript archive like OpenAI's: traced or scripted, matrices in float16."""
    module = Scripted({key: value.half() if half and value.ndim > 1 else value for key, value in state.items()}).eval()
    scripted = torch.jit.trace(module, torch.zeros(2)) if kind == "traced" else torch.jit.script(module)
    torch.jit.save(scripted, str(path))
    return path


@pytest.fixture(scope="session")
def archive():
    """Writes a TorchScript archive: `archive(state, path, kind="scripted", half=True)`."""
    return write_archive


NAMES = (
    ("token_embedding", "embeddings.token_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("class_embedding", "embeddings.class_embedding"),
    ("conv1", "embeddings.patch_embedding"),
    ("ln_final", "final_layer_norm"),
    ("ln_pre", "pre_layrnorm"),
    ("ln_post", "post_layernorm"),
    ("transformer.resblocks", "encoder.layers"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)


@pytest.fixture(scope="session")
def as_transformers():
    """Renames a text encoder, and a vision transformer if there is one, to the names of transformers."""

    def renamed(state):
        stored = {}
        for key, value in state.items():
            encoder, key = ("vision", key.removeprefix("visual.")) if key.startswith("visual.") else ("text", key)
            for ours, theirs in NAMES:
                key = key.replace(ours, theirs)
            if "in_proj" in key:
                for name, part in zip("qkv", value.chunk(3), strict=True):
                    stored[f"{encoder}_model." + key.replace("attn.in_proj_", f"self_attn.{name}_proj.")] = part.clone()
            elif key in ("text_projection", "proj"):
                name = "text_projection.weight" if encoder == "text" else "visual_projection.weight"
                stored[name] = value.T.contiguous()
            elif key == "logit_scale":
                stored[key] = value.contiguous()
            else:
                stored[f"{encoder}_model.{key}"] = value.contiguous()
            # Older versions of transformers stored them.
            stored[f"{encoder}_model.embeddings.position_ids"] = torch.arange(12)[None]
        return stored

    return renamed

"""CLIP's weights from every kind of file, made here from encoders of a few channels."""

import hashlib
import http.server
import io
import os
import pickle
import re
import threading
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from refseg.clip import weights
from safetensors.torch import save_file
from torch import nn

from refseg.encoders.clip_files import (
    archive_name,
    download_clip,
    encoder_weights,
    fingerprint,
    infer_resnet,
    infer_text,
    infer_vit,
    load_encoders,
    load_text_encoder,
    read_clip,
    read_file,
    read_weights,
)
from refseg.encoders.clip_resnet import Bottleneck, ModifiedResNet, ResNetConfig
from refseg.encoders.clip_sizes import CLIP_SIZES
from refseg.encoders.clip_text import TextConfig, TextTransformer
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.errors import DownloadError, RefsegError, UnknownNameError, WeightsError

VISION = ResNetConfig(layers=(1, 2, 1, 1), width=4, heads=2, output_dim=16, pretrained_size=64)
VIT = ViTConfig(patch=8, width=64, layers=3, heads=1, output_dim=16, pretrained_size=32)
TEXT = TextConfig(width=64, heads=1, layers=2, output_dim=16, context_length=12, vocabulary_size=50)


class Encoders(nn.Module):
    def __init__(self, vision=VISION, text=TEXT):
        super().__init__()
        self.visual = VisionTransformer(vision) if isinstance(vision, ViTConfig) else ModifiedResNet(vision)
        self.text = TextTransformer(text)


# For tests of `encoders` or of what is made of it: both kinds of image encoder.
of_both_kinds = pytest.mark.parametrize("encoders", [VISION, VIT], indirect=True, ids=["resnet", "vit"])


@pytest.fixture
def encoders(request):
    torch.manual_seed(0)
    encoders = Encoders(getattr(request, "param", VISION))
    # What CLIP holds has fp16's precision.
    for p in encoders.parameters():
        p.data = p.data.half().float()
    return encoders


@pytest.fixture
def state(encoders):
    """CLIP's state dict as OpenAI has it: without CRIS' layer."""
    visual = {f"visual.{key}": value for key, value in encoders.visual.state_dict().items() if "connect" not in key}
    return visual | encoders.text.state_dict()


class Scripted(nn.Module):
    """Holds a state dict under its names in modules, as an archive does; it computes nothing worth mentioning."""

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
        self.attn_mask = torch.zeros(3, 3)
        self.padding: list[int] = [0, 0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.attn_mask


def archive(state, path, kind, half):
    """Write a TorchScript archive as OpenAI did: traced or scripted, matrices in fp16."""
    module = Scripted({key: value.half() if half and value.ndim > 1 else value for key, value in state.items()}).eval()
    scripted = torch.jit.trace(module, torch.zeros(2)) if kind == "traced" else torch.jit.script(module)
    torch.jit.save(scripted, str(path))
    return path


def equal(found, wanted):
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


def refused(path, read=read_clip):
    with pytest.raises(RefsegError) as caught:
        read(path)
    assert type(caught.value) is WeightsError
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# Today's torch warns that TorchScript is deprecated; OpenAI's files are TorchScript all the same.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
class TestArchives:
    @of_both_kinds
    @pytest.mark.parametrize("kind", ["traced", "scripted"])
    @pytest.mark.parametrize("half", [True, False])
    def test_read_without_being_run(self, state, tmp_path, kind, half, monkeypatch):
        path = archive(state, tmp_path / "RN50.pt", kind, half)
        stored = torch.jit.load(str(path)).state_dict()
        assert {"input_resolution", "context_length"} <= set(stored)
        monkeypatch.setattr(torch.jit, "load", None)
        found = read_clip(path)
        equal(found, state)
        if half:
            key = "visual.conv1.weight"
            assert stored[key].dtype == torch.float16
            assert torch.equal(found[key], stored[key].float())

    def test_as_it_is_stored(self, state, tmp_path):
        found = read_weights(archive(state, tmp_path / "RN50.pt", "scripted", half=True))
        assert found["visual.conv1.weight"].dtype == torch.float16
        assert int(found["context_length"]) == 12

    @pytest.mark.parametrize("end", [30, 200, 5000, -1, -300])
    def test_cut_off(self, state, tmp_path, end):
        path = archive(state, tmp_path / "RN50.pt", "scripted", half=True)
        path.write_bytes(path.read_bytes()[:end])
        assert "broken" in refused(path)

    def test_a_flipped_bit(self, state, tmp_path):
        path = archive(state, tmp_path / "RN50.pt", "scripted", half=True)
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as file:
            largest = max(file.infolist(), key=lambda entry: entry.file_size)
            content[content.index(file.read(largest)) + 1000] ^= 1
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="broken"):
            read_clip(path)

    def rewritten(self, path, data, **entries):
        """Write an archive whose `data.pkl` is this."""
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", data)
            file.writestr("a/code/__torch__.py", "")
            for name, value in entries.items():
                file.writestr(f"a/data/{name.removeprefix('n')}", value)
        return path

    def test_code_is_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "pwned"),)

        path = self.rewritten(tmp_path / "a.pt", pickle.dumps(Evil()))
        assert f"asks for {os.mkdir.__module__}.mkdir, which is no weight" in refused(path)
        for name in (b"builtins\neval", b"torch\nload", b"torch.serialization\nload", b"os\nsystem"):
            self.rewritten(tmp_path / "a.pt", b"\x80\x02c" + name + b"\n.")
            assert "was not run" in refused(path)
        assert not (tmp_path / "pwned").exists()

    @staticmethod
    def tensor(storage, *arguments):
        """Pickle a module with one tensor `w` by hand."""
        out = io.BytesIO()

        class Persistent(pickle._Pickler):
            def persistent_id(self, obj):
                return storage if obj == "STORAGE" else None

            def save_global(self, obj, name=None):
                self.write(b"c" + obj.__module__.encode() + b"\n" + obj.__qualname__.encode() + b"\n")

        class Module:
            def __reduce__(self):
                return _Rebuilt, (), {"w": Rebuild()}

        class Rebuild:
            def __reduce__(self):
                return torch._utils._rebuild_tensor_v2, ("STORAGE", *arguments, False, OrderedDict())

        Persistent(out, 2).dump(Module())
        return out.getvalue()

    def test_by_hand(self, tmp_path):
        storage = ("storage", torch.FloatStorage, "0", "cuda:0", 6)
        data = self.tensor(storage, 1, (2, 2), (1, 2))
        values = np.arange(6, dtype=np.float32)
        found = read_weights(self.rewritten(tmp_path / "a.pt", data, n0=values.tobytes()))
        assert found["w"].tolist() == [[1.0, 3.0], [2.0, 4.0]]

    @pytest.mark.parametrize(
        ("count", "arguments"),
        [
            (6, (0, (7,), (1,))),
            (6, (6, (1,), (1,))),
            (6, (-1, (2,), (1,))),
            (6, (0, (-2,), (1,))),
            (6, (0, (2,), (-1,))),
            (6, (0, (10**12,), (0,))),
            (6, (0, (10**12, 10**12), (0, 0))),
            (6, ("0", (2,), (1,))),
            (10**12, (0, (2,), (1,))),
        ],
    )
    def test_tensors_that_lie(self, tmp_path, count, arguments):
        data = self.tensor(("storage", torch.FloatStorage, "0", "cpu", count), *arguments)
        refused(self.rewritten(tmp_path / "a.pt", data, n0=bytes(24)), read_weights)

    def test_modules_without_end(self, tmp_path):
        # A module in itself, and 2**100 ways to the innermost of a hundred.
        node = b"c__torch__\nM\n)\x81"
        loop = b"\x80\x02" + node + b"q\x00}X\x01\x00\x00\x00ah\x00sb."
        assert "no state dict" in refused(self.rewritten(tmp_path / "a.pt", loop), read_weights)
        inner = node + b"q\x00"
        for i in range(100):
            key = bytes([i])
            inner += node + b"}(X\x01\x00\x00\x00ah" + key + b"X\x01\x00\x00\x00bh" + key + b"ubq" + bytes([i + 1])
        start = time.perf_counter()
        refused(self.rewritten(tmp_path / "a.pt", b"\x80\x02" + inner + b"."), read_weights)
        assert time.perf_counter() - start < 2

    def test_compressed_and_overlapping(self, tmp_path):
        path = tmp_path / "a.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a/code/x.py", "")
            file.writestr("a/data.pkl", bytes(10**7))
        assert "compressed" in refused(path)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", bytes(1000))
        content = path.read_bytes()
        # The directory names the same bytes three times.
        start = content.index(b"PK\x01\x02")
        end = content.index(b"PK\x05\x06")
        entry, tail = content[start:end], content[end:]
        tail = tail[:8] + (3).to_bytes(2, "little") * 2 + (3 * len(entry)).to_bytes(4, "little") + tail[16:]
        path.write_bytes(content[:start] + entry * 3 + tail)
        assert "broken" in refused(path)

    def test_no_module_at_all(self, tmp_path):
        assert "broken" in refused(self.rewritten(tmp_path / "a.pt", pickle.dumps([1, 2], 2)))


class _Rebuilt:
    __module__ = "__torch__"
    __qualname__ = "M"


class TestStateDicts:
    @of_both_kinds
    @pytest.mark.parametrize("prefix", ["", "module."])
    @pytest.mark.parametrize("wrapped", [True, False])
    @pytest.mark.parametrize("legacy", [True, False])
    def test_of_torch_save(self, state, tmp_path, prefix, wrapped, legacy):
        stored = {prefix + key: value.half() if value.ndim > 1 else value for key, value in state.items()}
        content = {"epoch": 3, "state_dict": stored} if wrapped else stored
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        equal(read_clip(tmp_path / "a.pt"), state)
        assert read_file(tmp_path / "a.pt")[1] == ({"epoch": 3} if wrapped else {})

    def test_openais_scalars_are_left_out(self, state, tmp_path):
        torch.save(state | {"vocab_size": torch.tensor(50), "input_resolution": torch.tensor(64)}, tmp_path / "a.pt")
        equal(read_clip(tmp_path / "a.pt"), state)

    @of_both_kinds
    @pytest.mark.parametrize("text", ["", "text."])
    def test_of_open_clip(self, state, tmp_path, text):
        # open_clip has OpenAI's names; its models with a text encoder of their own put `text.` before that encoder's.
        stored = {
            key if key.startswith(("visual.", "logit_scale")) else text + key: value.contiguous()
            for key, value in state.items()
        }
        save_file(stored, tmp_path / "open_clip_model.safetensors")
        equal(read_clip(tmp_path / "open_clip_model.safetensors"), state)

    def test_of_transformers_text_encoder(self, encoders, state, tmp_path):
        save_file(as_transformers(encoders.text.state_dict()), tmp_path / "model.safetensors")
        found = read_clip(tmp_path / "model.safetensors")
        equal(found, {key: value for key, value in state.items() if not key.startswith("visual.")})
        text = TextTransformer(TEXT)
        load_text_encoder(text, found)
        equal(text.state_dict(), encoders.text.state_dict())
        with pytest.raises(WeightsError, match="no image encoder"):
            load_encoders(Encoders(), found)

    @pytest.mark.parametrize("encoders", [VIT], indirect=True)
    def test_of_transformers(self, encoders, state, tmp_path):
        save_file(as_transformers(state), tmp_path / "model.safetensors")
        equal(read_clip(tmp_path / "model.safetensors"), state)

    @pytest.mark.parametrize("encoders", [VIT], indirect=True)
    def test_of_transformers_image_encoder(self, state, tmp_path):
        visual = {key: value for key, value in state.items() if key.startswith("visual.")}
        save_file(as_transformers(visual), tmp_path / "model.safetensors")
        assert "no CLIP: 'token_embedding.weight' is missing" in refused(tmp_path / "model.safetensors")

    @pytest.mark.parametrize("encoders", [VIT], indirect=True)
    @pytest.mark.parametrize("encoder", ["text", "vision"])
    def test_of_transformers_incomplete(self, state, tmp_path, encoder):
        stored = as_transformers(state)
        key = f"{encoder}_model.encoder.layers.1.self_attn.k_proj.weight"
        for value in (torch.zeros(3, 3), torch.tensor(1.0)):
            save_file(stored | {key: value}, tmp_path / "a.safetensors")
            assert "attn.in_proj_weight are of different shapes" in refused(tmp_path / "a.safetensors")
        del stored[key]
        save_file(stored, tmp_path / "a.safetensors")
        assert "one of the projections" in refused(tmp_path / "a.safetensors")
        for more in (f"{encoder}_model.more", f"{encoder}_model.encoder.layers.1.more.weight", "visual.proj", "more"):
            save_file(stored | {more: torch.zeros(1)}, tmp_path / "a.safetensors")
            assert f"'{more}' is no weight of transformers' CLIP" in refused(tmp_path / "a.safetensors")
        save_file(stored | {"text_projection.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
        assert "'text_projection.weight' is no weight" in refused(tmp_path / "a.safetensors")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"a": torch.zeros(1)}, "'token_embedding.weight' is missing"),
            ({"a": 1}, "'a' is no tensor"),
            ({1: torch.zeros(1)}, "'1' is no tensor"),
            ({}, "no state dict"),
            ([torch.zeros(1)], "no state dict"),
            (torch.zeros(1), "no state dict"),
            ({"a": torch.zeros(1).expand(10**9)}, "no plain tensor"),
            ({"a": torch.zeros(2, 2).to_sparse()}, "no plain tensor"),
        ],
    )
    def test_no_clip(self, tmp_path, content, said):
        torch.save(content, tmp_path / "a.pt")
        assert said in refused(tmp_path / "a.pt")

    def test_whole_models_are_not_unpickled(self, encoders, tmp_path):
        torch.save(nn.Linear(1, 1), tmp_path / "a.pt")
        assert "contains more than weights (torch.nn" in refused(tmp_path / "a.pt")
        torch.save({"a": Evil()}, tmp_path / "a.pt")
        assert "that code was not run" in refused(tmp_path / "a.pt")
        (tmp_path / "a.pt").write_bytes(pickle.dumps(Evil()))
        refused(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"hello",
            b"PK\x03\x04",
            b"PK\x03\x04" + bytes(100),
            b"\x80\x02",
            b"<html>" * 99,
            bytes(7) + b"\x01{}",
            bytes(99),
        ],
    )
    def test_other_files(self, tmp_path, content):
        (tmp_path / "a.pt").write_bytes(content)
        assert "no file of weights" in refused(tmp_path / "a.pt")

    def test_no_file(self, tmp_path):
        assert "No such file" in refused(tmp_path / "a.pt")
        assert "directory" in refused(tmp_path)

    @pytest.mark.parametrize("number", [np.float64(0.7), np.float32(0.5), np.int64(3), np.bool_(True)])
    def test_numbers_of_numpy_are_let_through(self, state, tmp_path, number):
        torch.save({"state_dict": state, "best_iou": number}, tmp_path / "a.pt")
        assert read_file(tmp_path / "a.pt")[1] == {"best_iou": float(number)}

    def test_numbers_of_numpy_1(self, state, tmp_path):
        # numpy 1 called its module otherwise.
        buffer = io.BytesIO()
        torch.save({"state_dict": state, "best_iou": np.float64(0.7)}, buffer, _use_new_zipfile_serialization=False)
        content = buffer.getvalue()
        assert b"numpy._core.multiarray" in content
        (tmp_path / "a.pt").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
        assert read_file(tmp_path / "a.pt")[1] == {"best_iou": 0.7}

    @pytest.mark.parametrize(
        "thing", [np.array([1, 2]), np.array([print], dtype=object)[0], np.datetime64("2020-01-01")]
    )
    def test_other_things_of_numpy_are_not(self, state, tmp_path, thing):
        torch.save({"state_dict": state, "thing": thing}, tmp_path / "a.pt")
        refused(tmp_path / "a.pt")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/nonexistent/refseg",)


def as_transformers(state):
    """Write a text encoder, and a vision transformer if there is one, under transformers' names."""
    stored = {}
    for key, value in state.items():
        encoder, key = ("vision", key.removeprefix("visual.")) if key.startswith("visual.") else ("text", key)
        names = [
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
        ]
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        if "in_proj" in key:
            for name, part in zip("qkv", value.chunk(3), strict=True):
                stored[f"{encoder}_model." + key.replace("attn.in_proj_", f"self_attn.{name}_proj.")] = part.clone()
        elif key in ("text_projection", "proj"):
            stored["text_projection.weight" if encoder == "text" else "visual_projection.weight"] = value.T.contiguous()
        elif key == "logit_scale":
            stored[key] = value.contiguous()
        else:
            stored[f"{encoder}_model.{key}"] = value.contiguous()
        # Older versions of transformers saved them.
        stored[f"{encoder}_model.embeddings.position_ids"] = torch.arange(12)[None]
    return stored


class TestLoading:
    @pytest.mark.parametrize("encoders", [VIT], indirect=True)
    def test_a_vision_transformer(self, encoders, state):
        other = Encoders(VIT)
        load_encoders(other, state)
        equal(other.state_dict(), encoders.state_dict())
        equal(encoder_weights(other), state)

    @pytest.mark.parametrize("encoders", [VIT], indirect=True)
    def test_the_other_kind_of_encoder_is_named(self, encoders, state):
        said = (
            "a CLIP of width 64 and layers 3 (a vision transformer) does not fit this model, "
            "which takes a CLIP of width 4 and layers [1, 2, 1, 1] (a ResNet)"
        )
        with pytest.raises(WeightsError, match=f"^{re.escape(said)}$"):
            load_encoders(Encoders(), state)
        said = (
            "a CLIP of width 4 and layers [1, 2, 1, 1] (a ResNet) does not fit this model, "
            "which takes a CLIP of width 64 and layers 3 (a vision transformer)"
        )
        with pytest.raises(WeightsError, match=f"^{re.escape(said)}$"):
            load_encoders(encoders, encoder_weights(Encoders()))
        said = "this file (a vision transformer) does not fit this model, which takes "
        with pytest.raises(WeightsError, match=f"^{re.escape(said)}"):
            load_encoders(Encoders(), {"visual.proj": torch.zeros(1)})

    def test_the_names_of_published_ones_are_said(self):
        with torch.device("meta"):
            resnet, vit = (Encoders(CLIP_SIZES[name].vision, CLIP_SIZES[name].text) for name in ("RN50", "ViT-B/16"))
        said = (
            "CLIP's ViT-B/16 (a vision transformer) does not fit this model, which takes CLIP's RN50 (a ResNet)",
            "CLIP's RN50 (a ResNet) does not fit this model, which takes CLIP's ViT-B/16 (a vision transformer)",
        )
        for model, given, line in ((resnet, vit, said[0]), (vit, resnet, said[1])):
            with pytest.raises(WeightsError, match=f"^{re.escape(line)}$"):
                load_encoders(model, encoder_weights(given))

    @pytest.mark.parametrize("encoders", [VIT], indirect=True)
    def test_a_model_without_a_name(self, state):
        # A width that no head of 64 channels divides: its sizes do not follow from its weights.
        odd = Encoders(VISION, TextConfig(width=200, heads=2, layers=1, output_dim=16, vocabulary_size=50))
        with pytest.raises(WeightsError, match=r"which takes another CLIP \(a ResNet\)$"):
            load_encoders(odd, state)

    @pytest.mark.parametrize("encoders", [VIT], indirect=True)
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda s: s.pop("visual.class_embedding"), "missing are class_embedding"),
            (
                lambda s: s.update({"visual.attnpool.c_proj.bias": torch.zeros(1)}),
                "unexpected are attnpool.c_proj.bias",
            ),
            (
                lambda s: s.update({"visual.positional_embedding": torch.zeros(50, 64)}),
                "shape are positional_embedding",
            ),
            (lambda s: s.update({"visual.positional_embedding": torch.zeros(0, 64)}), "shape are positional_embedding"),
        ],
    )
    def test_other_vision_transformers_are_refused(self, state, change, said):
        change(state)
        with pytest.raises(WeightsError, match=re.escape(said)):
            load_encoders(Encoders(VIT), state)

    def test_all_but_what_is_new(self, encoders, state):
        other = Encoders()
        new = {key: value.clone() for key, value in other.visual.attnpool.connect.state_dict().items()}
        load_encoders(other, state)
        equal(other.text.state_dict(), encoders.text.state_dict())
        for key, value in other.visual.state_dict().items():
            if not key.startswith("attnpool.connect"):
                assert torch.equal(value, encoders.visual.state_dict()[key]), key
        equal(other.visual.attnpool.connect.state_dict(), new)

    def test_named_exceptions(self, state):
        less = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        load_encoders(Encoders(), less)
        load_encoders(Encoders(), state | {"vocab_size": torch.tensor(3), "logit_scale": torch.tensor([2.0])})

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda s: s.pop("visual.conv1.weight"), "missing are conv1.weight"),
            (lambda s: s.pop("ln_final.bias"), "missing are ln_final.bias"),
            (lambda s: s.update({"visual.more": torch.zeros(1)}), "unexpected are more"),
            (lambda s: s.update({"visual.attnpool.connect.0.wight": torch.zeros(1)}), "unexpected are attnpool"),
            (lambda s: s.update(more=torch.zeros(1)), "unexpected are more"),
            (lambda s: s.update({"ln_final.bias": torch.zeros(1)}), "of another shape are ln_final.bias"),
            (lambda s: [s.pop(key) for key in list(s) if ".bn1." in key], "and 21 more"),
        ],
    )
    def test_everything_else_is_refused(self, state, change, said):
        change(state)
        with pytest.raises(WeightsError, match=re.escape(said)):
            load_encoders(Encoders(), state)

    def test_the_wrong_clip_is_named(self):
        sizes = CLIP_SIZES["RN101"]
        with torch.device("meta"):
            clip = Encoders(sizes.vision, sizes.text)
        state = {f"visual.{key}": value for key, value in clip.visual.state_dict().items() if "connect" not in key}
        with pytest.raises(WeightsError, match=r"^CLIP's RN101 does not fit this model"):
            load_encoders(Encoders(), state | clip.text.state_dict())

    def test_an_unpublished_clip_is_described(self, state):
        other = Encoders(VISION, TextConfig(width=64, heads=1, layers=1, output_dim=16, vocabulary_size=50))
        with pytest.raises(WeightsError, match=re.escape("a CLIP of width 4 and layers [1, 2, 1, 1] does not fit")):
            load_encoders(other, state)


class TestSizes:
    @pytest.mark.parametrize("name", CLIP_SIZES)
    def test_follow_from_shapes(self, name):
        with torch.device("meta"):
            encoders = Encoders(CLIP_SIZES[name].vision, CLIP_SIZES[name].text)
        infer = infer_vit if name.startswith("ViT") else infer_resnet
        assert infer(encoders.visual.state_dict(), "") == CLIP_SIZES[name].vision
        assert infer_text(encoders.text.state_dict()) == CLIP_SIZES[name].text

    def test_of_other_weights(self):
        with pytest.raises(WeightsError, match=r"'visual\.layer1\.0\.conv1\.weight' is missing"):
            infer_resnet({})
        with pytest.raises(WeightsError, match=r"'visual\.conv1\.weight' is missing"):
            infer_vit({})
        with pytest.raises(WeightsError, match=r"'token_embedding\.weight' is missing"):
            infer_text({})
        with pytest.raises(WeightsError, match="has the shape"):
            infer_text({"token_embedding.weight": torch.zeros(3)})

    def test_a_high_number_is_not_many_layers(self, state):
        state["transformer.resblocks.999999999.ln_1.bias"] = torch.zeros(1)
        with pytest.raises(WeightsError, match="up to 999999999"):
            infer_text(state)

    def test_bottleneck_names_are_clips(self):
        names = set(Bottleneck(4, 4, stride=2).state_dict())
        assert {"downsample.0.weight", "downsample.1.running_mean"} <= names


class TestFingerprint:
    @of_both_kinds
    def test_is_the_encoders_own(self, encoders, state):
        found = fingerprint(state)
        assert re.fullmatch("[0-9a-f]{64}", found)
        assert fingerprint(dict(reversed(state.items()))) == found
        assert fingerprint(encoder_weights(encoders)) == found
        half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        assert fingerprint(half) == found

    # So that it can be compared with one that was written down.
    def test_is_the_same_everywhere(self):
        state = {"visual.proj": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([0.5])}
        content = (
            b"a [1]\n" + np.float32([0.5]).tobytes() + b"visual.proj [2, 3]\n" + np.arange(6, dtype="<f4").tobytes()
        )
        assert fingerprint(state) == hashlib.sha256(content).hexdigest()

    def test_leaves_out_what_computes_no_feature(self, state):
        found = fingerprint(state)
        more = {
            "logit_scale": torch.tensor(1.0),
            "context_length": torch.tensor(77),
            "visual.bn1.num_batches_tracked": 3,
        }
        assert fingerprint(state | {key: torch.as_tensor(value) for key, value in more.items()}) == found
        assert fingerprint(state | {"visual.attnpool.connect.0.weight": torch.ones(1)}) == found

    @pytest.mark.parametrize("key", ["visual.bn1.running_mean", "visual.conv1.weight", "ln_final.bias"])
    def test_sees_every_change(self, state, key):
        found = fingerprint(state)
        assert fingerprint(state | {key: state[key] * (1 + 2**-20) + 2**-20}) != found
        assert fingerprint(state | {key: state[key][None]}) != found
        assert fingerprint({name: value for name, value in state.items() if name != key}) != found
        assert fingerprint({name + "x" * (name == key): value for name, value in state.items()}) != found

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    @pytest.mark.parametrize("encoders", [VIT], indirect=True)
    def test_is_the_same_from_every_kind_of_file(self, state, tmp_path):
        archive(state, tmp_path / "archive.pt", "scripted", half=True)
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "saved.pt")
        text = {key if key.startswith("visual.") else f"text.{key}": value for key, value in state.items()}
        save_file({key: value.half() for key, value in text.items()}, tmp_path / "open_clip.safetensors")
        save_file(as_transformers(state), tmp_path / "transformers.safetensors")
        assert {fingerprint(read_clip(path)) for path in tmp_path.iterdir()} == {fingerprint(state)}


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content`; `manner` says how well."""

    content = b""
    manner = "honest"
    asked: list

    def do_GET(self):
        content, manner = self.content, self.manner
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.asked.append((self.path, self.headers.get("Range")))
        if manner in ("404", "503"):
            self.send_error(int(manner))
            return
        start = int(ranged[1]) if ranged and manner != "rangeless" else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if manner != "lengthless":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if manner == "breaks":
            body = body[: len(body) // 2]
        if manner == "lies":
            body = bytes(len(body))
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    content = os.urandom(3 * 2**20 + 17)
    handler = type("Handler", (Server,), {"content": content, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    handler.address = f"http://127.0.0.1:{server.server_port}/clip/models"
    monkeypatch.setitem(weights.CHECKSUMS, "RN50", hashlib.sha256(content).hexdigest())
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


class TestDownload:
    def test_the_checksums_are_openais_addresses(self):
        assert set(weights.CHECKSUMS) == set(CLIP_SIZES)
        assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in weights.CHECKSUMS.values())
        assert weights.ADDRESS == "https://openaipublic.azureedge.net/clip/models"

    @pytest.mark.parametrize("manner", ["honest", "lengthless"])
    def test_once(self, server, tmp_path, manner):
        server.manner = manner
        path = download_clip("RN50", tmp_path / "deep", address=server.address)
        assert path == tmp_path / "deep" / "RN50.pt"
        assert path.read_bytes() == server.content
        assert download_clip("RN50", tmp_path / "deep", address=server.address) == path
        assert server.asked == [(f"/clip/models/{weights.CHECKSUMS['RN50']}/RN50.pt", None)]
        assert os.listdir(path.parent) == ["RN50.pt"]

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("RN50x4", "RN50x4.pt"),
            ("ViT-B/32", "ViT-B-32.pt"),
            ("ViT-L/14@336px", "ViT-L-14-336px.pt"),
        ],
    )
    def test_the_names_of_files_are_openais(self, server, tmp_path, monkeypatch, name, file):
        assert archive_name(name) == file
        monkeypatch.setitem(weights.CHECKSUMS, name, hashlib.sha256(server.content).hexdigest())
        assert download_clip(name, tmp_path, address=server.address) == tmp_path / file
        assert os.listdir(tmp_path) == [file]
        assert server.asked == [(f"/clip/models/{weights.CHECKSUMS[name]}/{file}", None)]

    def test_its_home(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("REFSEG_HOME", str(tmp_path / "home"))
        assert download_clip("RN50", address=server.address) == tmp_path / "home" / "clip" / "RN50.pt"
        monkeypatch.delenv("REFSEG_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert download_clip("RN50", address=server.address) == tmp_path / ".cache" / "refseg" / "clip" / "RN50.pt"

    def test_broken_off_and_gone_on(self, server, tmp_path):
        server.manner = "breaks"
        with pytest.raises(DownloadError, match="broke off after 1572872 of 3145745 bytes; run it again"):
            download_clip("RN50", tmp_path, address=server.address)
        assert os.listdir(tmp_path) == ["RN50.pt.part"]
        server.manner = "honest"
        path = download_clip("RN50", tmp_path, address=server.address)
        assert path.read_bytes() == server.content
        assert [asked for _, asked in server.asked] == [None, "bytes=1572872-"]
        assert os.listdir(tmp_path) == ["RN50.pt"]

    def test_a_server_that_cannot_go_on(self, server, tmp_path):
        (tmp_path / "RN50.pt.part").write_bytes(server.content[:1000])
        server.manner = "rangeless"
        assert download_clip("RN50", tmp_path, address=server.address).read_bytes() == server.content

    def test_a_part_that_is_complete(self, server, tmp_path):
        (tmp_path / "RN50.pt.part").write_bytes(server.content)
        assert download_clip("RN50", tmp_path, address=server.address).read_bytes() == server.content
        assert not server.asked

    def test_a_part_that_is_too_long(self, server, tmp_path):
        (tmp_path / "RN50.pt.part").write_bytes(bytes(len(server.content) + 5))
        assert download_clip("RN50", tmp_path, address=server.address).read_bytes() == server.content

    def test_another_file_is_not_kept(self, server, tmp_path):
        server.manner = "lies"
        with pytest.raises(DownloadError, match="what came is not RN50"):
            download_clip("RN50", tmp_path, address=server.address)
        assert os.listdir(tmp_path) == []
        # Nor is one that lay there.
        server.manner = "honest"
        (tmp_path / "RN50.pt").write_bytes(b"something else")
        assert download_clip("RN50", tmp_path, address=server.address).read_bytes() == server.content

    def test_without_end(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(weights, "LARGEST_ARCHIVE", 2**20)
        with pytest.raises(DownloadError, match="sends more than"):
            download_clip("RN50", tmp_path, address=server.address)

    @pytest.mark.parametrize("manner", ["404", "503"])
    def test_a_server_that_refuses(self, server, tmp_path, manner):
        server.manner = manner
        with pytest.raises(DownloadError, match=f"the server answers {manner}") as caught:
            download_clip("RN50", tmp_path, address=server.address)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://refseg.invalid", "nonsense"])
    def test_out_of_reach(self, server, tmp_path, address):
        start = time.perf_counter()
        with pytest.raises(DownloadError, match=r"RN50 was not fetched from .*path of a local file"):
            download_clip("RN50", tmp_path, address=address)
        assert time.perf_counter() - start < 3

    def test_nowhere_to_keep_it(self, server, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(DownloadError):
            download_clip("RN50", tmp_path / "file", address=server.address)

    def test_an_unknown_name(self, tmp_path):
        with pytest.raises(UnknownNameError, match="CLIP model"):
            download_clip("ViT-H/14", tmp_path)


def test_a_model_of_the_zoo_takes_a_local_file(state, tmp_path, monkeypatch):
    from refseg.models import zoo
    from refseg.models.cris.model import CRISConfig

    config = CRISConfig(
        vision=VISION, text=TEXT, neck_channels=(4, 64, 8), decoder_layers=0, image_size=64, word_length=8
    )
    entry = zoo.ZooEntry(**{**vars(zoo.ZOO["cris-r50"]), "config": lambda: config})
    monkeypatch.setitem(zoo.ZOO, "cris-r50", entry)
    torch.save(state, tmp_path / "RN50.pt")
    for model in (
        zoo.create_model("cris-r50", pretrained=tmp_path / "RN50.pt"),
        zoo.create_model("cris-r50", pretrained=str(tmp_path / "RN50.pt"), decoder_layers=1, decoder_heads=2),
    ):
        assert torch.equal(model.visual.conv1.weight, state["visual.conv1.weight"])
        assert torch.equal(model.text.text_projection, state["text_projection"])
    asked = []
    monkeypatch.setattr(weights, "download_clip", lambda name: asked.append(name) or tmp_path / "RN50.pt")
    model = zoo.create_model("cris-r50", pretrained=True)
    assert asked == ["RN50"]
    assert torch.equal(model.visual.conv1.weight, state["visual.conv1.weight"])

"""Files of weights: well formed, broken, unsafe, not finite, and with the names of wrapped models."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from refseg.encoders.weights_file import check_finite, prefix_hint, read_file, read_weights, rename
from refseg.errors import WeightsError

STATE = {"visual.a.weight": torch.arange(4.0).reshape(2, 2), "b": torch.tensor([1, 2])}


def equal(found, expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


def error_of(path, *parts):
    """Read a file that raises an error with these parts in the message, which is one line and names the file."""
    with pytest.raises(WeightsError) as caught:
        read_file(path)
    assert "\n" not in str(caught.value)
    for part in (str(path), *parts):
        assert part in str(caught.value)


class Rebuilt:
    __module__ = "__torch__"
    __qualname__ = "M"


class Unsafe:
    def __reduce__(self):
        return os.mkdir, ("/nonexistent/refseg",)


def rewritten(path, data, **entries):
    """Write a TorchScript archive with this `data.pkl`."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", data)
        file.writestr("a/code/__torch__.py", "")
        for name, value in entries.items():
            file.writestr(f"a/data/{name.removeprefix('n')}", value)
    return path


def pickled_tensor(storage, *arguments):
    """Return a pickled module with one tensor `w`."""
    out = io.BytesIO()

    class Persistent(pickle._Pickler):
        def persistent_id(self, obj):
            return storage if obj == "STORAGE" else None

        def save_global(self, obj, name=None):
            self.write(b"c" + obj.__module__.encode() + b"\n" + obj.__qualname__.encode() + b"\n")

    class Module:
        def __reduce__(self):
            return Rebuilt, (), {"w": Rebuild()}

    class Rebuild:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, ("STORAGE", *arguments, False, OrderedDict())

    Persistent(out, 2).dump(Module())
    return out.getvalue()


# TorchScript is deprecated in current versions of torch; OpenAI's files are TorchScript.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
class TestTorchScript:
    @pytest.mark.parametrize("kind", ["traced", "scripted"])
    def test_is_read_without_being_executed(self, archive, tmp_path, kind, monkeypatch):
        path = archive(STATE, tmp_path / "a.pt", kind)
        monkeypatch.setattr(torch.jit, "load", None)
        found = read_weights(path)
        assert found["visual.a.weight"].dtype == torch.float16
        assert torch.equal(found["visual.a.weight"].float(), STATE["visual.a.weight"])
        assert int(found["context_length"]) == 12

    @pytest.mark.parametrize("end", [30, 200, 1000, -1, -300])
    def test_a_truncated_archive(self, archive, tmp_path, end):
        path = archive(STATE, tmp_path / "a.pt")
        path.write_bytes(path.read_bytes()[:end])
        error_of(path, "broken")

    def test_a_changed_bit(self, archive, tmp_path):
        path = archive({"a": torch.ones(100, 100)}, tmp_path / "a.pt")
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as file:
            largest = max(file.infolist(), key=lambda entry: entry.file_size)
            content[content.index(file.read(largest)) + 1000] ^= 1
        path.write_bytes(content)
        error_of(path, "broken")

    def test_code_is_not_executed(self, tmp_path):
        class Unsafe:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "executed"),)

        path = tmp_path / "a.pt"
        rewritten(path, pickle.dumps(Unsafe()))
        error_of(path, f"{os.mkdir.__module__}.mkdir, which is not a weight")
        for name in (b"builtins\neval", b"torch\nload", b"torch.serialization\nload", b"os\nsystem"):
            rewritten(path, b"\x80\x02c" + name + b"\n.")
            error_of(path, "was not run")
        assert not (tmp_path / "executed").exists()

    def test_strides_and_offsets(self, tmp_path):
        data = pickled_tensor(("storage", torch.FloatStorage, "0", "cuda:0", 6), 1, (2, 2), (1, 2))
        values = np.arange(6, dtype=np.float32)
        found = read_weights(rewritten(tmp_path / "a.pt", data, n0=values.tobytes()))
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
    def test_tensors_outside_of_their_storage(self, tmp_path, count, arguments):
        data = pickled_tensor(("storage", torch.FloatStorage, "0", "cpu", count), *arguments)
        error_of(rewritten(tmp_path / "a.pt", data, n0=bytes(24)))

    @pytest.mark.timeout(60)
    def test_modules_that_contain_each_other(self, tmp_path):
        # A module that contains itself, and one with 2**100 paths to its innermost module.
        node = b"c__torch__\nM\n)\x81"
        loop = b"\x80\x02" + node + b"q\x00}X\x01\x00\x00\x00ah\x00sb."
        error_of(rewritten(tmp_path / "a.pt", loop), "no state dict")
        inner = node + b"q\x00"
        for i in range(100):
            key = bytes([i])
            inner += node + b"}(X\x01\x00\x00\x00ah" + key + b"X\x01\x00\x00\x00bh" + key + b"ubq" + bytes([i + 1])
        error_of(rewritten(tmp_path / "a.pt", b"\x80\x02" + inner + b"."))

    def test_compressed_and_overlapping_entries(self, tmp_path):
        path = tmp_path / "a.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a/code/x.py", "")
            file.writestr("a/data.pkl", bytes(10**7))
        error_of(path, "compressed")
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", bytes(1000))
        content = path.read_bytes()
        # The directory lists the same bytes three times.
        start = content.index(b"PK\x01\x02")
        end = content.index(b"PK\x05\x06")
        entry, tail = content[start:end], content[end:]
        tail = tail[:8] + (3).to_bytes(2, "little") * 2 + (3 * len(entry)).to_bytes(4, "little") + tail[16:]
        path.write_bytes(content[:start] + entry * 3 + tail)
        error_of(path, "overlap")

    def test_an_archive_without_a_module(self, tmp_path):
        error_of(rewritten(tmp_path / "a.pt", pickle.dumps([1, 2], 2)), "broken")


class TestStateDicts:
    @pytest.mark.parametrize("nested", [True, False])
    @pytest.mark.parametrize("legacy", [True, False])
    def test_of_torch_save(self, tmp_path, nested, legacy):
        content = {"epoch": 3, "state_dict": STATE} if nested else STATE
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        state, others = read_file(tmp_path / "a.pt")
        equal(state, STATE)
        assert others == ({"epoch": 3} if nested else {})

    def test_of_safetensors(self, tmp_path):
        save_file(STATE, tmp_path / "a.safetensors")
        equal(read_weights(str(tmp_path / "a.safetensors")), STATE)

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            ({"a": 1}, "'a' is not a tensor"),
            ({1: torch.zeros(1)}, "'1' is not a tensor"),
            ({}, "no state dict"),
            ([torch.zeros(1)], "no state dict"),
            (torch.zeros(1), "no state dict"),
            ({"state_dict": {}}, "no state dict"),
            ({"a": torch.zeros(1).expand(10**9)}, "not a plain tensor"),
            ({"a": torch.zeros(2, 2).to_sparse()}, "not a plain tensor"),
            ({"a": torch.zeros(10**9, device="meta")}, "not a plain tensor"),
        ],
    )
    def test_other_content(self, tmp_path, content, part):
        torch.save(content, tmp_path / "a.pt")
        error_of(tmp_path / "a.pt", part)

    def test_whole_models_are_not_unpickled(self, tmp_path):
        path = tmp_path / "a.pt"
        torch.save(nn.Linear(1, 1), path)
        error_of(path, "contains more than weights (torch.nn")
        torch.save({"a": Unsafe()}, path)
        error_of(path, "that code was not run")
        path.write_bytes(pickle.dumps(Unsafe()))
        error_of(path)

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
        error_of(tmp_path / "a.pt", "not a file of weights")

    def test_missing_files(self, tmp_path):
        error_of(tmp_path / "a.pt", "No such file")
        error_of(tmp_path, "directory")

    @pytest.mark.parametrize("number", [np.float64(0.7), np.float32(0.5), np.int64(3), np.bool_(True)])
    def test_numbers_of_numpy_are_read(self, tmp_path, number):
        torch.save({"state_dict": STATE, "best_iou": number}, tmp_path / "a.pt")
        assert read_file(tmp_path / "a.pt")[1] == {"best_iou": float(number)}

    def test_numbers_of_numpy_1(self, tmp_path):
        # numpy 1 has another name for the module.
        buffer = io.BytesIO()
        torch.save({"state_dict": STATE, "best_iou": np.float64(0.7)}, buffer, _use_new_zipfile_serialization=False)
        content = buffer.getvalue()
        assert b"numpy._core.multiarray" in content
        (tmp_path / "a.pt").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
        assert read_file(tmp_path / "a.pt")[1] == {"best_iou": 0.7}

    @pytest.mark.parametrize(
        "value", [np.array([1, 2]), np.array([print], dtype=object)[0], np.datetime64("2020-01-01")]
    )
    def test_other_objects_of_numpy_are_not_read(self, tmp_path, value):
        torch.save({"state_dict": STATE, "value": value}, tmp_path / "a.pt")
        error_of(tmp_path / "a.pt")


class TestFiniteWeights:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("suffix", ["pt", "safetensors"])
    def test_others_are_errors(self, tmp_path, value, dtype, suffix):
        weights = torch.ones(3, 4, dtype=dtype)
        weights[1, 2] = value
        state = STATE | {"decoder.weight": weights}
        path = tmp_path / f"a.{suffix}"
        save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
        error_of(path, "'decoder.weight'", "1 of 12 values")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_others_are_errors_in_a_torchscript_archive(self, archive, tmp_path):
        # 70000 is finite in float32, and infinite in float16.
        error_of(archive({"a": torch.full((2, 2), 7e4)}, tmp_path / "a.pt", half=True), "'a'", "4 of 4")

    def test_infinities_that_cancel(self):
        with pytest.raises(WeightsError, match="2 of 2"):
            check_finite({"a": torch.tensor([float("inf"), float("-inf")])}, "file")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_the_largest_numbers_are_finite(self, dtype):
        check_finite({"a": torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)}, "file")

    def test_other_types(self):
        check_finite(
            {
                "integer": torch.tensor([2**60]),
                "boolean": torch.tensor([True]),
                "empty": torch.empty(0),
                "complex": torch.zeros(2, dtype=torch.complex64),
                "small": torch.ones(3).to(torch.float8_e4m3fn),
            },
            "file",
        )
        for wrong in (torch.tensor([complex(0, float("nan"))]), torch.tensor([float("nan")]).to(torch.float8_e4m3fn)):
            with pytest.raises(WeightsError, match="'wrong'"):
                check_finite({"wrong": wrong}, "file")

    def test_causal_masks_are_not_weights(self, tmp_path):
        state = {"transformer.resblocks.0.attn_mask": torch.full((3, 3), float("-inf")).triu(1), "a": torch.ones(2)}
        torch.save(state, tmp_path / "a.pt")
        equal(read_weights(tmp_path / "a.pt"), state)


class TestPrefixes:
    @pytest.mark.parametrize(
        "prefix",
        ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.", "model.net.module."],
    )
    def test_of_wrappers_are_removed(self, tmp_path, prefix):
        torch.save({prefix + key: value for key, value in STATE.items()}, tmp_path / "a.pt")
        equal(read_weights(tmp_path / "a.pt"), STATE)

    def test_of_real_wrappers_are_removed(self, tmp_path):
        model = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), second=nn.BatchNorm1d(3)))
        expected = {key: value.clone() for key, value in model.state_dict().items()}
        averaged = torch.optim.swa_utils.AveragedModel(model)
        for wrapped in (
            nn.DataParallel(model),
            torch.compile(model, backend="eager"),
            nn.DataParallel(torch.compile(model, backend="eager")),
            averaged,
            nn.DataParallel(averaged),
        ):
            assert set(wrapped.state_dict()) != set(expected)
            torch.save({"state_dict": wrapped.state_dict()}, tmp_path / "a.pt")
            equal(read_weights(tmp_path / "a.pt"), expected)

    def test_of_compiled_parts_are_removed(self, tmp_path):
        model = nn.Sequential(OrderedDict(first=nn.Linear(2, 3), second=nn.Linear(3, 3)))
        expected = {key: value.clone() for key, value in model.state_dict().items()}
        model.second = torch.compile(model.second, backend="eager")
        assert "second._orig_mod.weight" in model.state_dict()
        torch.save(model.state_dict(), tmp_path / "a.pt")
        equal(read_weights(tmp_path / "a.pt"), expected)

    @pytest.mark.parametrize("key", ["models.a", "orig_mod.a", "a.module.b", "visual.model.a", "my_orig_mod.a"])
    def test_similar_names_are_kept(self, tmp_path, key):
        torch.save({key: torch.ones(1), "module_b": torch.ones(1)}, tmp_path / "a.pt")
        assert set(read_weights(tmp_path / "a.pt")) == {key, "module_b"}

    @pytest.mark.parametrize(
        ("first", "second", "parts"),
        [
            ("module.a", "b", ("'module.'", "no prefix")),
            ("module.a", "a", ("'module.'", "no prefix")),
            ("_orig_mod.a", "b", ("'_orig_mod.'", "no prefix")),
            ("module.a", "model.a", ("'module.'", "'model.'")),
            ("module._orig_mod.a", "module.b", ("'module._orig_mod.'", "'module.'")),
        ],
    )
    def test_different_prefixes_are_errors(self, tmp_path, first, second, parts):
        torch.save({first: torch.ones(1), second: torch.ones(1)}, tmp_path / "a.pt")
        error_of(tmp_path / "a.pt", "different prefixes", *parts)

    def test_two_weights_of_one_name_are_errors(self, tmp_path):
        torch.save({"a._orig_mod.b": torch.ones(1), "a.b": torch.ones(1)}, tmp_path / "a.pt")
        error_of(tmp_path / "a.pt", "'a._orig_mod.b'", "'a.b'", "same weight")

    def test_rename(self):
        state = {"x.a": torch.ones(1), "b": torch.ones(1)}
        assert set(rename(state, lambda key: key.removeprefix("x."), "file")) == {"a", "b"}
        with pytest.raises(WeightsError, match=r"^file: .*'x\.a'.*'b'.*'same'"):
            rename(state, lambda key: "same", "file")

    @pytest.mark.parametrize(
        ("keys", "prefix"),
        [
            (["encoder.clip.a", "encoder.clip.b.c"], "encoder.clip."),
            (["encoder.a", "encoder.ab"], "encoder."),
            (["encoder.a", "encoders.a"], ""),
            (["a", "a.b"], ""),
            (["a"], ""),
            ([], ""),
        ],
    )
    def test_a_common_prefix_is_named(self, keys, prefix):
        hint = prefix_hint(dict.fromkeys(keys, torch.ones(1)))
        assert (repr(prefix) in hint) if prefix else (hint == "")

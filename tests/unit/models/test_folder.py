import json
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from refseg import __version__, checkpoint
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.errors import ConfigError, DownloadError, OutputError, RefsegError, UnknownNameError, WeightsError
from refseg.models import zoo
from refseg.models.cris.model import CRIS, CRISConfig
from refseg.models.folder import load_model, push_to_hub, read_folder, resolve, save_model, stored_in_half


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CRIS(
        CRISConfig(
            vision=ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=2, output_dim=8, pretrained_size=64),
            text=TextConfig(width=8, heads=2, layers=1, output_dim=8, vocabulary_size=64),
            neck_channels=(4, 8, 8),
            decoder_layers=1,
            decoder_heads=2,
            decoder_hidden=8,
            image_size=64,
        )
    ).eval()


@pytest.fixture
def folder(model, tmp_path):
    return save_model(model, tmp_path / "model")


def refused(folder, kind=WeightsError):
    with pytest.raises(RefsegError) as caught:
        load_model(folder)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def edit(folder, change):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_there_and_back(model, tmp_path):
    folder = save_model(model, str(tmp_path / "deep" / "model"), name="tiny", extra={"training": {"epoch": 3}})
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    described = read_folder(folder)
    assert described.family == "cris"
    assert described.config == model.config
    assert described.refseg == __version__
    assert described.about == {"name": "tiny", "training": {"epoch": 3}}
    loaded = load_model(folder)
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_without_anything_to_tell_there_is_no_about(folder):
    assert set(json.loads((folder / "config.json").read_text())) == {"refseg", "family", "config"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_for_matrices_only(model, tmp_path, dtype):
    folder = save_model(model, tmp_path, dtype=dtype)
    for key, value in load_file(folder / "model.safetensors").items():
        kind = model.state_dict()[key].dtype
        assert value.dtype == (dtype if value.ndim >= 2 else kind), key
    for key, value in load_model(folder).state_dict().items():
        original = model.state_dict()[key]
        assert value.dtype == original.dtype
        assert torch.equal(value, original.to(dtype).to(original.dtype) if value.ndim >= 2 else original)


def test_loaded_weights_are_the_models_own(folder):
    loaded = load_model(folder)
    with torch.no_grad():
        loaded.visual.conv1.weight.zero_()
    (folder / "model.safetensors").write_bytes(b"")
    assert not loaded.visual.conv1.weight.any()
    assert loaded.visual.conv2.weight.any()


def test_files_can_be_read_by_others(folder):
    usual = folder / "usual"
    usual.touch()
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).stat().st_mode == usual.stat().st_mode


def test_a_failure_leaves_the_old_model(model, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_model(model, folder, name="other")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_where_nothing_can_be_written(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_model(model, tmp_path / "file")
    with pytest.raises(ConfigError, match="not JSON"):
        save_model(model, tmp_path / "model", extra={"a": object()})
    assert not (tmp_path / "model").exists()


def test_missing_things(folder, tmp_path):
    assert "no such folder" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(tmp_path / "empty")
    (tmp_path / "official.pth").touch()
    assert "refseg convert" in refused(tmp_path / "official.pth")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(family="criss"), "did you mean 'cris'"),
        (lambda v: v.update(family=3), "`family` must be text"),
        (lambda v: v.update(about=[]), "`about` an object"),
        (lambda v: v.pop("family"), "'family' is missing"),
        (lambda v: v.pop("config"), "'config' is missing"),
        (lambda v: v.update(confg={}), "did you mean 'config'"),
        (lambda v: v["config"].update(image_siz=3), "did you mean 'image_size'"),
        (lambda v: v["config"].pop("vision"), "'vision' is missing"),
        (lambda v: v["config"].update(image_size="64"), "config.image_size: expected int"),
        (lambda v: v["config"].update(threshold=float("nan")), "threshold"),
        (lambda v: v["config"]["text"].update(width=10**9), "text.width"),
    ],
)
def test_broken_configs(folder, change, said):
    edit(folder, change)
    with pytest.raises(ConfigError) as caught:
        load_model(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(decoder_layers=10**9), "decoder_layers = 1000000000, but the weights have 1"),
        (lambda c: c["text"].update(layers=10**9), "text.layers"),
        (lambda c: c["text"].update(context_length=10**15), "text.context_length"),
        (lambda c: c["text"].update(vocabulary_size=10**12), "text.vocabulary_size"),
        (lambda c: c["vision"].update(layers=[1, 10**9, 1, 1]), "vision.layers"),
        (lambda c: c["vision"].update(width=10**9), "vision.width"),
        (lambda c: c["vision"].update(pretrained_size=32 * 10**9), "vision.pretrained_size"),
        (lambda c: c.update(neck_channels=[10**12, 8, 8]), "neck_channels"),
        (lambda c: c.update(contrastive=False), "contrastive"),
        (lambda c: c.update(decoder_hidden=10), "another shape: decoder.layers.0.ffn.0.weight [8, 8] for [10, 8]"),
    ],
)
def test_a_config_of_other_sizes_costs_nothing(folder, change, said):
    edit(folder, lambda values: change(values["config"]))
    start = time.perf_counter()
    assert said in refused(folder)
    assert time.perf_counter() - start < 2


def test_absurd_sizes_that_weights_back_are_never_filled(folder):
    # Shapes may hold a zero, so that any size fits into a small file.
    path = folder / "model.safetensors"
    state = load_file(path)
    state["decoder.layers.0.ffn.0.weight"] = torch.empty(10**14, 0)
    save_file(state, path)
    edit(folder, lambda values: values["config"].update(decoder_hidden=10**14))
    assert "cannot be built" in refused(folder)


def test_broken_weights(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for broken in (b"", content[:7], content[:1000], content[:-1], b"\xff" * 8 + content[8:], b"not safetensors" * 99):
        path.write_bytes(broken)
        assert "model.safetensors" in refused(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("neck.norm5.bias"), "1 weights are missing: neck.norm5.bias"),
        (lambda s: s.update(more=torch.zeros(1)), "1 weights are unexpected: more"),
        (
            lambda s: [s.update({f"more{i}": torch.zeros(1)}) for i in range(5)],
            "5 weights are unexpected: more0, more1, more2 and 2 more",
        ),
        (lambda s: s.update({"neck.norm5.bias": torch.zeros(3)}), "another shape: neck.norm5.bias [3] for [8]"),
        (lambda s: s.update({"neck.norm5.bias": torch.zeros(8, dtype=torch.int8)}), "stored as I8"),
        (lambda s: s.pop("visual.layer1.0.conv1.weight"), "'visual.layer1.0.conv1.weight' is missing"),
        (lambda s: s.pop("neck.project3.0.weight"), "'neck.project3.0.weight' is missing"),
        (lambda s: s.update({"neck.project3.0.weight": torch.tensor(1.0)}), "single number"),
        (lambda s: s.update({"text.text_projection": torch.tensor(1.0)}), "has the shape []"),
        (lambda s: s.update({"decoder.layers.7.norm1.bias": torch.zeros(8)}), "of the layers up to 7"),
    ],
)
def test_weights_of_another_model(folder, change, said):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    assert said in refused(folder)


def test_an_unknown_device(folder):
    with pytest.raises(WeightsError):
        load_model(folder, device="nonsense")


class TestResolve:
    def test_a_folder(self, folder, monkeypatch):
        assert resolve(folder) == folder
        assert resolve(str(folder)) == folder
        monkeypatch.chdir(folder.parent)
        assert resolve("model") == Path("model")

    def test_a_name_of_the_zoo_wins_over_a_folder(self, folder, monkeypatch, tmp_path):
        bundled = tmp_path / "bundled"
        bundled.mkdir()
        monkeypatch.setitem(zoo.ZOO, "shapes", zoo.ZooEntry(**{**vars(zoo.ZOO["shapes"]), "weights": bundled}))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "shapes").mkdir()
        assert resolve("shapes") == bundled
        assert resolve("./shapes") == Path("shapes")
        assert resolve(Path("shapes")) == Path("shapes")

    def test_a_name_without_weights(self):
        with pytest.raises(WeightsError, match="refseg convert"):
            resolve("cris-r50")

    def test_an_unknown_name(self):
        with pytest.raises(UnknownNameError, match="did you mean 'cris-r50'"):
            resolve("cris-r5")

    @pytest.mark.parametrize("path", ["./none", "/none", "~/none-at-all", "../a/b", "a/b/c", "official.pth", Path("x")])
    def test_a_path_that_is_not_there(self, path):
        with pytest.raises(WeightsError, match="no such folder"):
            resolve(path)

    def test_a_file(self, tmp_path):
        (tmp_path / "official.pth").touch()
        with pytest.raises(WeightsError, match=r"refseg convert .*official\.pth"):
            resolve(tmp_path / "official.pth")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine: nothing leaves it, and nothing is cached between tests."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield constants


class TestHub:
    def test_out_of_reach_it_says_so_at_once(self, hub, monkeypatch):
        monkeypatch.setattr(hub, "ENDPOINT", "https://refseg.invalid")
        start = time.perf_counter()
        with pytest.raises(DownloadError) as caught:
            resolve("user/name")
        assert time.perf_counter() - start < 3
        assert "no folder 'user/name'" in str(caught.value)
        assert "refseg.invalid cannot be reached" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_nobody_listens(self, hub, monkeypatch):
        monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(DownloadError, match="refused"):
            resolve("user/name")

    def test_a_slow_look_up_is_not_waited_for(self, hub, monkeypatch):
        monkeypatch.setattr(checkpoint, "PATIENCE", 0.05)
        asked = threading.Event()

        def connect(*_, **__):
            asked.wait(10)
            raise OSError

        monkeypatch.setattr(socket, "create_connection", connect)
        with pytest.raises(DownloadError, match=r"no answer in 0\.05 seconds"):
            resolve("user/name")
        asked.set()

    def test_an_address_that_is_none(self, hub, monkeypatch):
        monkeypatch.setattr(hub, "ENDPOINT", "http://localhost:port")
        with pytest.raises(DownloadError, match="is no address"):
            resolve("user/name")

    def test_offline_by_choice(self, hub, monkeypatch):
        monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
        with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
            resolve("user/name")
        with pytest.raises(DownloadError, match="not allowed"):
            resolve("user/name", allow_download=False)

    def test_a_proxy_is_asked_instead(self, hub, monkeypatch):
        monkeypatch.setattr(hub, "ENDPOINT", "https://refseg.invalid")
        knocked = []

        def connect(address, timeout):
            knocked.append(address)
            raise ConnectionRefusedError(111, "Connection refused")

        monkeypatch.setattr(socket, "create_connection", connect)
        for proxy in ("http://proxy:3128", "proxy:3128"):
            monkeypatch.setenv("https_proxy", proxy)
            with pytest.raises(DownloadError, match="proxy cannot be reached"):
                resolve("user/name")
        monkeypatch.delenv("https_proxy")
        monkeypatch.setenv("all_proxy", "socks5://proxy")
        with pytest.raises(DownloadError):
            resolve("user/name")
        monkeypatch.setenv("no_proxy", "refseg.invalid")
        with pytest.raises(DownloadError):
            resolve("user/name")
        assert knocked == [("proxy", 3128), ("proxy", 3128), ("proxy", 1080), ("refseg.invalid", 443)]

    def test_fetched(self, hub, folder, monkeypatch):
        asked = []

        def snapshot(repo_id, *, allow_patterns, local_files_only):
            asked.append((repo_id, tuple(allow_patterns), local_files_only))
            if local_files_only:
                raise FileNotFoundError
            return str(folder)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
        assert resolve("user/name") == folder
        files = ("config.json", "model.safetensors")
        assert asked == [("user/name", files, True), ("user/name", files, False)]

    def test_cached_it_needs_no_network(self, hub, folder, monkeypatch):
        monkeypatch.setattr(hub, "ENDPOINT", "https://refseg.invalid")
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
        assert resolve("user/name", allow_download=False) == folder

    def test_something_else(self, hub, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
        with pytest.raises(DownloadError, match=r"no model of refseg: it has no config\.json"):
            resolve("user/name")

    def test_the_client_fails(self, hub, monkeypatch):
        def fail(*_, local_files_only, **__):
            raise FileNotFoundError if local_files_only else RuntimeError("401:\nwho are you?")

        monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
        with pytest.raises(DownloadError, match=r"401: who are you\?$"):
            resolve("user/name")

    def test_pushed(self, hub, folder, monkeypatch):
        calls = []

        class Api:
            def create_repo(self, repo_id, **options):
                calls.append((repo_id, options))
                return f"https://hub/{repo_id}"

            def upload_folder(self, **options):
                calls.append(options)

        monkeypatch.setattr("huggingface_hub.HfApi", Api)
        assert push_to_hub(folder, "user/name", private=True) == "https://hub/user/name"
        assert calls[0] == ("user/name", {"private": True, "exist_ok": True})
        assert calls[1]["allow_patterns"] == ["config.json", "model.safetensors", "README.md"]
        card = (folder / "README.md").read_text()
        assert card.startswith("---\nlibrary_name: refseg\n")
        assert 'refseg.load("user/name")' in card
        (folder / "README.md").write_text("my own")
        push_to_hub(folder, "user/name")
        assert (folder / "README.md").read_text() == "my own"
        assert load_model(folder)

    def test_not_pushed(self, hub, folder, tmp_path, monkeypatch):
        with pytest.raises(WeightsError):
            push_to_hub(tmp_path / "none", "user/name")
        monkeypatch.setattr(hub, "ENDPOINT", "https://refseg.invalid")
        with pytest.raises(OutputError, match=r"user/name: not uploaded: refseg\.invalid cannot be reached"):
            push_to_hub(folder, "user/name")


def test_the_hubs_client_is_imported_when_needed():
    import subprocess

    code = "import sys, refseg.models.folder; assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_says_whether_it_is_in_half_precision(model, folder, tmp_path):
    assert not stored_in_half(folder)
    assert stored_in_half(save_model(model, tmp_path / "half", dtype=torch.float16))
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be read"):
        stored_in_half(tmp_path)

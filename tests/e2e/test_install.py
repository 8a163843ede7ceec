"""The wheel, alone in an empty folder: whole, and of use without the tools of development."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "refseg"

pytestmark = pytest.mark.slow

# Runs in a process of its own: no module of an extra can be imported, and nothing reaches the network.
PROGRAM = """
import importlib, importlib.abc, pathlib, pkgutil, socket, sys

class Blocked(importlib.abc.MetaPathFinder):
    NAMES = {"tensorboard", "pytest", "_pytest", "xdist", "hypothesis", "beartype", "mypy", "ruff", "build",
             "hatchling", "zensical", "mkdocs", "mkdocstrings", "cv2", "torchvision", "transformers", "open_clip"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.NAMES:
            raise ModuleNotFoundError(f"{name} is no dependency of refseg", name=name)

def refuse(*arguments, **settings):
    raise AssertionError("something reached for the network")

sys.meta_path.insert(0, Blocked())
socket.socket.connect = socket.create_connection = refuse

import refseg
assert pathlib.Path(refseg.__file__).is_relative_to(sys.argv[1]), refseg.__file__
assert not [name for name in sys.modules if name in ("torch", "numpy")], "`import refseg` is slow"
for name in refseg.__all__:
    getattr(refseg, name)
for module in pkgutil.walk_packages(refseg.__path__, "refseg."):
    if module.name != "refseg.__main__":
        importlib.import_module(module.name)
        print(module.name)

from refseg.cli.main import main
from refseg.inputs.clip_bpe import Tokenizer
assert main(["models"]) == 0
assert Tokenizer().encode("a cup") == [49406, 320, 1937, 49407]
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    # What points elsewhere stays behind, such as PYTHONPATH.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (made,) = folder.glob("refseg-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run(*pip, "--target", folder, wheel, cwd=folder)
    return folder


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    wanted = {
        file.relative_to(PACKAGE.parent).as_posix()
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
    }
    about = {name for name in packed if name.partition("/")[0].endswith(".dist-info")}
    assert packed - about == wanted
    assert {"refseg/py.typed", "refseg/inputs/bpe_merges.txt.gz"} <= packed
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in about}
    # Once the bundled model is in the source it is in the wheel: both of its files, or none.
    weights = {Path(name).name for name in packed if name.startswith("refseg/models/weights/shapes/")}
    assert weights in (set(), {"config.json", "model.safetensors", "image.onnx", "expression.onnx"})


def test_every_module_works_with_the_core_alone(installed: Path, tmp_path: Path) -> None:
    printed = run(sys.executable, "-c", PROGRAM, installed, cwd=tmp_path, PYTHONPATH=str(installed))
    modules = {
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        for file in PACKAGE.rglob("*.py")
        if file.name not in ("__init__.py", "__main__.py")
    }
    assert modules <= set(printed.split())


WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; from refseg.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


def test_the_core_predicts_and_evaluates_without_pytorch(installed: Path, tmp_path: Path) -> None:
    def refseg(*words: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *map(str, words)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(installed), "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    photo = installed / "refseg/data/examples/cats.jpg"
    assert "score 0." in refseg("predict", photo, "the cat on the left", "--out", "predicted")
    refseg("evaluate", "shapes", "shapes:val", "--limit", "2", "--out", "result.json")
    refseg("report", "result.json", "--html", "report.html")
    (tmp_path / "photos").mkdir()
    shutil.copy(photo, tmp_path / "photos")
    (tmp_path / "words.txt").write_text("the cat on the left\n")
    refseg("label", "photos", "--expressions", "words.txt", "--to", "coco", "labelme", "--out", "labels")
    refseg("data", "check", "labels")
    assert "photos" in refseg("models")
    for words in (["train", "shapes-smoke"], ["convert", photo, "out"], ["export", "shapes", "--out", "out"]):
        assert refseg(*words, code=2) == "refseg: this needs PyTorch: pip install 'refseg[torch]'\n"


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    printed = run(sys.executable, "-m", "refseg", "--version", cwd=tmp_path, PYTHONPATH=str(installed))
    assert printed.startswith("refseg ")


def test_the_installed_model_segments(installed: Path, tmp_path: Path) -> None:
    image = installed / "refseg/data/shapes/scene.png"
    # A home of its own, so that no cache helps.
    run(
        *(sys.executable, "-m", "refseg", "predict", image, "the leftmost ring", "--out", tmp_path / "out"),
        cwd=tmp_path,
        PYTHONPATH=str(installed),
        HOME=str(tmp_path),
        HF_HUB_OFFLINE="1",
    )
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".png", ".jpg", ".jsonl"}

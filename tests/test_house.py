"""The rules of the house: what may import what, what is public, and what happens at import."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import refseg

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "refseg"
ROOMS = (
    *("errors", "files", "types", "config", "inputs", "visualize", "clip", "models", "checkpoint", "data", "predictor"),
    *("evaluation", "training", "cli"),
)
"""Each may import itself and those before it. The door of the package, its `__init__`, may name what it hands out."""
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def module_name(path):
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}
of_each_file = pytest.mark.parametrize("path", FILES, ids=map(module_name, FILES))


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def imports(path):
    """Every module of refseg, and every name in it, that a file imports anywhere in it."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] == "refseg")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module.split(".")[0] == "refseg":
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield (full, None) if full in MODULES else (node.module, alias.name)


@of_each_file
def test_imports_run_downwards(path):
    here = room(module_name(path))
    if here in (None, "__main__"):
        return
    for module, name in imports(path):
        there = room(module)
        if there is None:
            assert name == "__version__", f"{name} of the package's door"
        else:
            assert ROOMS.index(there) <= ROOMS.index(here), f"{here} imports {module}"


def test_every_room_is_known():
    assert {room(module) for module in MODULES} == {None, "__main__", *ROOMS}


def defined(tree):
    """Classes and functions of a module, and all its other names."""
    things, values = set(), set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            things.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            values |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return things, values


def exported(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return ast.literal_eval(node.value)
    return None


@of_each_file
def test_what_is_exported_is_there_and_sorted_once(path):
    names = exported(TREES[path])
    if names is None:
        assert not any(defined(TREES[path])) or path.name == "__main__.py", "no __all__"
        return
    assert len(names) == len(set(names))
    module = importlib.import_module(module_name(path))
    for name in names:
        assert hasattr(module, name), name
    if path.name != "__init__.py":
        things, values = defined(TREES[path])
        assert set(names) <= things | values, "another module's names"
        # Constants may be nobody else's business; classes and functions say so by an underscore.
        assert {name for name in things if not name.startswith("_")} <= set(names)


@of_each_file
def test_what_others_import_is_exported(path):
    for module, name in imports(path):
        if name is None or module == "refseg":
            continue
        names = exported(TREES[MODULES[module]]) or ()
        assert name in names, f"{module} does not export {name}"


def test_the_face_of_the_package():
    assert sorted(refseg.__all__) == refseg.__all__
    for name in refseg.__all__:
        assert getattr(refseg, name) is not None
        assert name in dir(refseg)
    assert set(refseg._HOMES) == set(refseg.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = refseg.nonsense


def test_the_package_says_that_it_is_typed():
    assert (SOURCE / "py.typed").is_file()


@of_each_file
def test_only_the_command_line_prints(path):
    if room(module_name(path)) != "cli":
        calls = {ast.unparse(node.func) for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)}
        assert calls.isdisjoint({"print", "sys.stdout.write", "sys.stderr.write"})


@of_each_file
def test_every_module_has_a_purpose(path):
    assert path.stem not in {"utils", "util", "common", "misc", "helpers", "helper", "tools", "stuff"}
    assert ast.get_docstring(TREES[path])


def test_no_machine_is_named():
    named = ("/" + "work/", "/" + "root/", "/home" + "/", "../" + "shared", "work/" + "shared")
    folders = [ROOT / name for name in ("src", "tests", "docs", "benchmarks", "examples", "scripts", ".ci")]
    files = [path for folder in folders for path in folder.rglob("*")] + list(ROOT.glob("*"))
    texts = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".sh", ""}
    for path in files:
        if path.is_file() and path.suffix in texts and "__pycache__" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not [name for name in named if name in text], path.relative_to(ROOT)


WATCH = """
import importlib, logging, os, random, sys, threading, warnings
import numpy, torch
def state():
    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch random": torch.get_rng_state().tolist(),
        "numpy random": repr(numpy.random.get_state()),
        "random": random.getstate(),
        "default type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "environment": {key: value for key, value in os.environ.items() if not key.startswith("KMP_")},
        "logging": (logging.root.level, list(logging.root.handlers)),
        "running": sorted(thread.name for thread in threading.enumerate()),
        "folder": (os.getcwd(), sorted(os.listdir())),
        "cuda": torch.cuda.is_initialized(),
    }
import PIL.Image, ftfy, pycocotools.mask, safetensors.torch, tokenizers, tqdm, jaxtyping, torch.utils.data
before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
    after = state()
    assert after == before, (name, [key for key in after if after[key] != before[key]])
"""


def test_nothing_happens_at_import(tmp_path):
    modules = [name for name in MODULES if name != "refseg.__main__"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCH, *modules],
        cwd=tmp_path,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

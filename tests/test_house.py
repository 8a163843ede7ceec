"""The rules of the code base: import order, exports, terms, and nothing that happens at import."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import refseg

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "refseg"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def module_name(path):
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def order():
    """The rooms in the order of the tree in the README: each may import itself and those above it."""
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("src/refseg/\n", 1)[1].split("```", 1)[0]
    entries = re.findall(r"^[├└]── (.*)$", tree, re.MULTILINE)
    return [
        name.removesuffix(".py").removesuffix("/") for entry in entries for name in re.findall(r"\w+(?:\.py|/)", entry)
    ]


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


def defined(tree):
    """Classes and functions of a module, and all its other names."""
    things, values = set(), set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
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


def broken_rules(path):
    """Yield the rules that a file breaks."""
    module, tree, names, rooms = module_name(path), TREES[path], exported(TREES[path]), order()
    here = room(module)
    if here not in (None, "__main__"):  # the package's own `__init__` names what it offers
        for other, name in imports(path):
            there = room(other)
            if there is None and name != "__version__":
                yield f"imports {name} from the package itself"
            elif there is not None and rooms.index(there) > rooms.index(here):
                yield f"imports {other}, which the README lists below {here}"
    for other, name in imports(path):
        if name is not None and other != "refseg" and name not in (exported(TREES[MODULES[other]]) or ()):
            yield f"imports {name}, which {other} does not export"
    if names is None:
        if any(defined(tree)) and path.name != "__main__.py":
            yield "has no __all__"
    elif path.name != "__init__.py":
        things, values = defined(tree)
        if len(names) != len(set(names)):
            yield "exports a name twice"
        if unknown := set(names) - things - values:
            yield f"exports {unknown}, which it does not define"
        if private := {name for name in things if not name.startswith("_")} - set(names):
            yield f"defines {private}, and neither exports them nor marks them as private"
    if here != "cli":
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        if used := calls & {"print", "sys.stdout.write", "sys.stderr.write"}:
            yield f"prints ({used})"
    if path.stem in {"utils", "util", "common", "misc", "helpers", "helper", "tools", "stuff"}:
        yield "has a name that says nothing"
    if not ast.get_docstring(tree):
        yield "has no docstring"
    if here not in ("cli", "data", None, "__main__"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr":
                yield f"line {node.lineno}: probes with hasattr; declare the capability"


def test_every_file_keeps_the_rules():
    assert set(order()) == {room(module) for module in MODULES} - {None, "__main__"}, "the tree in the README"
    broken = [f"{module_name(path)} {rule}" for path in FILES for rule in broken_rules(path)]
    assert not broken, "\n".join(broken)


DIALECT = re.compile(
    r"\b(pictures?|beliefs?|rivals?|tempers?|strangers?|borrow(?:s|ed)?|by[ -]heart|has heard|whispers?|refusals?)\b",
    re.IGNORECASE,
)
"""Words for which the field has a standard term (CONTRIBUTING.md, style)."""


def test_the_terms_are_those_of_the_field():
    files = [*FILES, *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in DIALECT.finditer(line)
    ]
    assert not found, "\n".join(found)


HEAVY = ("torch", "transformers", "pyarrow", "onnxruntime")
LIGHT = (
    "refseg",
    "refseg.values",
    "refseg.inputs.preprocessing",
    "refseg.masks",
    "refseg.models.families",
    "refseg.predictor",
)


def test_values_and_inputs_do_not_import_torch():
    code = f"import sys, {', '.join(LIGHT)}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_of_the_package():
    assert sorted(refseg.__all__) == refseg.__all__
    for name in refseg.__all__:
        assert getattr(refseg, name) is not None
        assert name in dir(refseg)
    assert set(refseg._HOMES) == set(refseg.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = refseg.nonsense


def test_the_package_is_typed():
    assert (SOURCE / "py.typed").is_file()


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

"""Build the server's page as a static site: an exported model answers in the browser, without a server.

    python scripts/build_site.py photos site
    python -m http.server --directory site

Needs `refseg[export]` and npm, which fetches onnxruntime-web; an unpacked copy of it can be named instead. Any static
host will do: the site asks no other host. docs/serve.md says what it can do.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

import refseg
from refseg.config import from_dict, load_json
from refseg.data.examples import EXAMPLES
from refseg.errors import ConfigError, DownloadError, RefsegError
from refseg.files import new_folder
from refseg.inputs.preprocessing import Inputs
from refseg.models.exported import Precision
from refseg.models.layout import DESCRIPTION

NOTICE = Path(__file__).parents[1] / "NOTICE"
"""It names the authors of the example photos and of CLIP's vocabulary, and their licences."""
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
SCRIPTS, WITH_WASM = "script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'"
"""The page's policy, and what a browser needs to compile WebAssembly."""


def main() -> int:
    """Carry out the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a name from `refseg models`, a model folder, or a Hub name")
    parser.add_argument("site", type=Path, help="the new folder to write")
    parser.add_argument("--precision", choices=("float32", "float16", "int8"), default="float16", help="of the weights")
    parser.add_argument(
        "--runtime", type=Path, help=f"the folder of the npm package {RUNTIME}, if it is not to be fetched"
    )
    arguments = parser.parse_args()
    try:
        build(arguments.model, arguments.site, precision=arguments.precision, runtime=arguments.runtime)
    except RefsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in arguments.site.rglob("*") if file.is_file())
    print(f"{arguments.site}: {size / 1e6:.1f} MB; look at it: python -m http.server --directory {arguments.site}")
    return 0


def build(model: str | Path, site: Path, *, precision: Precision = "float16", runtime: Path | None = None) -> None:
    """Write the site of a model.

    Args:
        model: a name from `refseg models`, a model folder, or a Hub name.
        site: to write; it must not exist.
        precision: in which the weights are stored.
        runtime: the folder of the npm package onnxruntime-web; None: npm fetches it.

    Raises:
        RefsegError: the model cannot be exported or computed in a browser, or the site cannot be written.
    """
    with new_folder(site) as draft, tempfile.TemporaryDirectory() as temporary:
        page = draft / "page"
        shutil.copytree(str(resources.files("refseg.serve") / "page"), page)
        shutil.copytree(EXAMPLES, page / "examples", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        for name in ("http.js", "server.js"):
            (page / name).unlink()
        (page / "engine.js").write_text('export { OnnxEngine as Engine } from "./onnx.js";\n')
        text = (page / "index.html").read_text(encoding="utf-8")
        (draft / "index.html").write_text(text.replace(SCRIPTS, WITH_WASM), encoding="utf-8")
        (page / "index.html").unlink()

        refseg.export(model, page / "model", precision=precision)
        _check(from_dict(Inputs, load_json(page / "model" / DESCRIPTION)["inputs"]))
        # In the browser all outputs of the graph are computed; attention is already there where masks are.
        source = refseg.load(page / "model").word_source
        (page / "model" / "words.json").write_text(json.dumps(source if source == "attention" else None), "utf-8")
        merges = (resources.files("refseg.inputs") / "bpe_merges.txt.gz").read_bytes()
        (page / "model" / "bpe_merges.txt").write_bytes(gzip.decompress(merges))

        shutil.copy(NOTICE, draft)
        (page / "ort").mkdir()
        for name in RUNTIME_FILES:
            shutil.copy((runtime or _fetched(Path(temporary))) / "dist" / name, page / "ort")


def _check(inputs: Inputs) -> None:
    read = (inputs.fit, inputs.channels, inputs.tokenizer)
    if read != ("letterbox", "rgb", "clip"):
        raise ConfigError(f"the site prepares images and expressions as CRIS and RISCLIP do, not as {', '.join(read)}")


def _fetched(folder: Path) -> Path:
    """Return the folder of the runtime, which npm has put into a temporary one."""
    package = folder / "node_modules" / "onnxruntime-web"
    if not package.is_dir():
        npm = shutil.which("npm")
        if npm is None:
            raise ConfigError(f"npm is not installed; install it, or name the unpacked package {RUNTIME} by --runtime")
        command = [npm, "install", "--silent", "--ignore-scripts", "--no-audit", "--prefix", str(folder), RUNTIME]
        if subprocess.run(command, check=False).returncode:
            raise DownloadError(f"npm cannot fetch {RUNTIME}; check the network, or name it by --runtime")
    return package


if __name__ == "__main__":
    sys.exit(main())

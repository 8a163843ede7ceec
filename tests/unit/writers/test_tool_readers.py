"""Labels are read by the readers of other tools: the expressions verbatim, the pixels as the stored table has them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from read_back import read_back, same, write_labels
from tool_readers import READERS, read

STORE = Path(__file__).parents[3] / "docs" / "results" / "read_back.json"
ROWS = json.loads(STORE.read_text(encoding="utf-8"))["rows"]
STORED = {(row["tool"], row["format"]): row for row in ROWS}
PAIRS = [(tool, name) for tool, formats in READERS.items() for name in formats]
INSTALLED = ("pillow", "pycocotools", "supervision", "geopandas", "datasets")
"""By the extra `dev`."""
ENVIRONMENTS = os.environ.get("REFSEG_TOOLS")
"""The folder of the environments of the other tools."""
FOUND = ("expressions", "masks", "lowest_iou")


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """The folder of all formats, and the masks that were written."""
    folder = tmp_path_factory.mktemp("labels")
    images = write_labels(folder, {name for _, name in PAIRS})
    return folder, {(image.file, one.expression): one.mask for image in images for one in image.regions}


def test_the_table_has_every_tool_and_format_with_every_expression():
    assert [*STORED] == PAIRS
    assert [row for row in ROWS if "error" not in row and not (row["expressions"] and row["masks"] == 3)] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("tool", "name"), [pair for pair in PAIRS if pair[0] in INSTALLED])
def test_a_tool_that_is_installed(labels, tool, name):
    folder, wanted = labels
    stored = STORED[tool, name]
    assert same(read(tool, name, folder / name), wanted) == {key: stored[key] for key in FOUND}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(ENVIRONMENTS is None, reason="REFSEG_TOOLS is not set")
@pytest.mark.parametrize("tool", [tool for tool in READERS if tool not in INSTALLED])
def test_a_tool_in_an_environment_of_its_own(tmp_path, tool):
    """Makes the environment if there is none, which needs a network, and minutes."""
    for row in read_back([tool], tmp_path, Path(ENVIRONMENTS).absolute()):
        stored = STORED[tool, row["format"]]
        assert {key: row.get(key) for key in FOUND} == {key: stored.get(key) for key in FOUND}

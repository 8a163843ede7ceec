"""A shard of a source becomes one of the sink, completely or not at all, whatever happens in between."""

from __future__ import annotations

import io
import json
import tarfile
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from refseg.bulk.compute import Limits, compute_shard
from refseg.bulk.deaths import MOST_DEATHS, Deaths
from refseg.bulk.listing import list_source
from refseg.bulk.sink import Counts, Sink
from refseg.errors import ConfigError, OutputError
from refseg.inputs.frame import Frame
from refseg.masks import decode_rle
from refseg.segmenter import BaseSegmenter
from refseg.values import Decision, Encoding, Prediction

NAMES = ("a.png", "b.png", "sub/c.png")
EXPRESSIONS = ("the red square", "the green one")
MANIFEST = {"model": "stand-in", "source": "abc"}


class StandIn(BaseSegmenter):
    """Finds the red pixels; nothing is green."""

    device, fingerprint = "cpu", "stand-in"

    def __init__(self):
        super().__init__(Decision())
        self.seen, self.batches = 0, []

    def _encode(self, images, max_pixels):
        self.seen += len(images)
        self.batches.append(len(images))
        return [Encoding("stand-in", Frame(64, 64, 64), {"pixels": np.asarray(image)}) for image in images]

    def _answer(self, image, expressions, decision):
        red = (image.arrays["pixels"][..., 0] > 200).astype(np.float32)
        return [
            Prediction(text, red * ("red" in text), image.frame, decision, object_score=0.9) for text in expressions
        ]


@pytest.fixture
def sink(tmp_path):
    found = Sink(tmp_path / "out", "parquet")
    found.begin(MANIFEST)
    return found


def compute(listing, sink, segmenter=None, **limits):
    segmenter = segmenter or StandIn()
    return [
        compute_shard(segmenter, shard, number, sink, listing.asked, Limits(**limits))
        for number, shard in enumerate(listing.shards)
    ]


def files(sink):
    return {
        path.relative_to(sink.folder).as_posix(): path.read_bytes() for path in sink.folder.rglob("*") if path.is_file()
    }


def test_a_table_has_a_row_for_each_answer(photos, words, sink):
    counts = compute(list_source(photos, words, None, 2), sink)
    assert counts == [Counts(images=2, masks=2, nothing_fits=2), Counts(images=1, masks=1, nothing_fits=1)]
    rows = parquet.read_table(sink.folder / "masks").to_pylist()
    assert [(row["image"], row["expression"]) for row in rows] == [(n, text) for n in NAMES for text in EXPRESSIONS]
    assert len({row["id"] for row in rows}) == 6
    first, second, *_ = rows
    assert decode_rle(first["mask"], size=(64, 64)).nonzero()[0].tolist()[0::20] == list(range(10, 20))
    assert (first["score"], first["box"], first["nothing_fits"]) == (0.9, [10, 10, 30, 20], False)
    assert (second["score"], second["box"], second["nothing_fits"]) == (0.0, None, True)
    assert not decode_rle(second["mask"]).any()
    assert sorted(files(sink)) == [
        "done/000000.json", "done/000001.json", "masks/000000.parquet", "masks/000001.parquet", "run.json"
    ]  # fmt: skip


def test_a_tar_has_each_image_with_its_answers(photos, words, tmp_path):
    sink = Sink(tmp_path / "out", "tar")
    sink.begin(MANIFEST)
    compute(list_source(photos, words, None, 2), sink)
    with tarfile.open(sink.folder / "masks" / "000001.tar") as tar:
        image, about = tar.getmembers()
        assert (image.name, about.name, image.mtime) == ("000001-000000.png", "000001-000000.json", 0)
        assert tar.extractfile(image).read() == (photos / "sub/c.png").read_bytes()
        values = json.load(tar.extractfile(about))
    assert values["image"] == "sub/c.png"
    assert [(one["expression"], one["nothing_fits"]) for one in values["masks"]] == [
        (EXPRESSIONS[0], False),
        (EXPRESSIONS[1], True),
    ]
    assert decode_rle(values["masks"][0]["mask"]).sum() == 20 * 12


def test_tars_are_a_source_again(photos, words, tmp_path):
    sink = Sink(tmp_path / "out", "tar")
    sink.begin(MANIFEST)
    compute(list_source(photos, words, None, 2), sink)
    again = Sink(tmp_path / "again", "parquet")
    again.begin(MANIFEST)
    assert sum(compute(list_source(sink.folder / "masks", words, None, 2), again), Counts()).masks == 3


def test_what_cannot_be_answered_is_in_a_table_with_the_reason(photos, words, sink):
    (photos / "a.png").write_bytes(b"no image")
    Image.new("RGB", (200, 200)).save(photos / "b.png")
    (photos / "d.png").write_bytes(b"")
    listing = list_source(photos, words, None, 100)
    (photos / "sub/c.png").unlink()
    (counts,) = compute(listing, sink, max_pixels=64 * 64)
    assert counts == Counts(failed=8)
    rows = parquet.read_table(sink.folder / "failed").to_pylist()
    assert [(row["image"], row["expression"]) for row in rows] == [
        (name, text) for name in ("a.png", "b.png", "d.png", "sub/c.png") for text in EXPRESSIONS
    ]
    for row, reason in zip(rows[::2], ("not an image", "too large", "empty", "no such file"), strict=True):
        assert reason in row["reason"]
    assert parquet.read_table(sink.folder / "masks").num_rows == 0


def test_names_that_are_no_text_are_written_with_escapes(photos, words, sink):
    (photos / "a.png").rename(photos / "\udcff.png")
    compute(list_source(photos, words, None, 100), sink)
    assert parquet.read_table(sink.folder / "masks")["image"][-1].as_py() == "\\udcff.png"


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_shard_that_was_interrupted_is_written_as_if_it_was_not(kind, photos, words, tmp_path):
    (photos / "b.png").write_bytes(b"no image")
    listing = list_source(photos, words, None, 2)
    whole, broken = Sink(tmp_path / "whole", kind), Sink(tmp_path / "broken", kind)
    for sink in (whole, broken):
        sink.begin(MANIFEST)
    compute(listing, whole)

    class Fails(StandIn):
        def _answer(self, *given):
            return super()._answer(*given) if self.seen == 1 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        compute(listing, broken, Fails())
    assert sorted(files(broken)) == [
        "deaths/000001.json", "done/000000.json", "failed/000000.parquet", f"masks/000000.{kind}", "run.json"
    ]  # fmt: skip
    (broken.folder / "masks" / ".000001.draft").write_bytes(b"of a process that was killed")
    again = StandIn()
    compute(listing, broken, again)
    assert again.seen == 1  # the first shard is not computed again
    broken.clean()
    assert files(broken) == files(whole)


def test_a_shard_without_its_mark_is_computed_again(photos, words, sink):
    listing = list_source(photos, words, None, 2)
    compute(listing, sink)
    before = files(sink)
    (sink.folder / "done" / "000001.json").unlink()
    compute(listing, sink, again := StandIn())
    assert (again.seen, files(sink) == before) == (1, True)
    (sink.folder / "done" / "000001.json").write_text("{")
    with pytest.raises(OutputError):
        compute(listing, sink)


def test_an_image_that_kills_processes_again_and_again_is_left_out(photos, words, sink):
    listing = list_source(photos, words, None, 100)

    class Dies(StandIn):
        def _encode(self, images, max_pixels):
            if any(np.asarray(image)[20:22, 15, 0].tolist() == [220, 90] for image in images):  # b.png
                raise KeyboardInterrupt  # stands for the end of the process
            return super()._encode(images, max_pixels)

    runs = 1
    while sink.counts(0) is None:
        with suppress(KeyboardInterrupt):
            compute(listing, sink, Dies(), batch=2)
        runs += 1
    assert runs == 1 + MOST_DEATHS + 2
    assert sink.counts(0) == Counts(images=2, masks=2, nothing_fits=2, failed=2)
    failed = parquet.read_table(sink.folder / "failed").to_pylist()
    assert {row["image"] for row in failed} == {"b.png"}
    assert f"{MOST_DEATHS} processes died" in failed[0]["reason"]


def test_deaths_are_counted_by_row(tmp_path):
    path = tmp_path / "deaths.json"
    assert not Deaths(path).careful
    for _ in range(MOST_DEATHS):
        again = Deaths(path)
        assert again.careful
        assert again.note(0)
        assert again.note(7)
    last = Deaths(path)
    assert (last.note(0), last.note(7), last.note(8)) == (True, False, True)
    path.write_text("{")
    assert Deaths(path).note(7)


def test_images_are_decoded_ahead_within_the_limits(photos, words, sink, tmp_path, monkeypatch):
    for number in range(9):
        (photos / f"z{number}.png").write_bytes((photos / "a.png").read_bytes())
    (photos / "z3.png").write_bytes(b"no image")
    listing = list_source(photos, words, None, 100)
    compute(listing, sink)
    read, model = [], StandIn()

    def counted(content, **given):
        read.append(1)
        assert len(read) - model.seen <= 2 * 2 + 1  # the broken image is read too
        return Image.open(io.BytesIO(content)).convert("RGB") if len(content) > 10 else open_broken(content, **given)

    from refseg.bulk import compute as module

    open_broken = module.read_image
    monkeypatch.setattr(module, "read_image", counted)
    ahead = Sink(tmp_path / "ahead", "parquet")
    ahead.begin(MANIFEST)
    compute(listing, ahead, model, batch=2, readers=2)
    assert max(model.batches) == 2
    assert files(ahead) == files(sink)
    with pytest.raises(ConfigError):
        Limits(batch=0)


def test_a_sink_of_something_else_is_not_written_to(sink, tmp_path):
    sink.begin(MANIFEST)  # the same again
    with pytest.raises(ConfigError, match='model "stand-in", not "other"'):
        sink.begin(MANIFEST | {"model": "other"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "full", tmp_path / "file"):
        with pytest.raises(OutputError):
            Sink(folder, "parquet").begin(MANIFEST)
    for text in ("{", "[]"):
        (sink.folder / "run.json").write_text(text)
        with pytest.raises(OutputError):
            sink.begin(MANIFEST)


def test_a_sink_that_cannot_be_written_is_one_line(photos, words, sink, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("refseg.bulk.sink.write_failed", full)
    (photos / "a.png").write_bytes(b"no image")
    with pytest.raises(OutputError, match="No space left"):
        compute(list_source(photos, words, None, 100), sink)
    assert sink.counts(0) is None

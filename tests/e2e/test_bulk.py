"""`refseg bulk` from the command line: what was done before stays, and Ray does the rest, as a loop would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from refseg.bulk.compute import compute_shard
from refseg.bulk.listing import list_source
from refseg.bulk.run import Job
from refseg.bulk.sink import Counts, Sink
from refseg.cli.main import main
from refseg.data import examples
from refseg.errors import counted

PHOTOS = Path(examples.__file__).parent


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_begun_run_is_finished_by_ray(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    photos, words, out = tmp_path / "photos", tmp_path / "words.txt", tmp_path / "out"
    photos.mkdir()
    for path in PHOTOS.glob("*.jpg"):
        shutil.copy(path, photos)
    (photos / "broken.jpg").write_bytes(b"no image")
    words.write_text("the cat on the left\nthe violin\n")
    listing = list_source(photos, words, None, 1)
    job = Job(sink=Sink(out, "tar"), asked=listing.asked)
    segmenter = job.load()
    manifest = {**job.manifest(segmenter), "source": listing.fingerprint, "shards": 4}
    expected = Sink(tmp_path / "expected", "tar")
    total = Counts()
    for sink, numbers in ((job.sink, [1]), (expected, range(4))):
        sink.begin(manifest)
        for number in numbers:
            counts = compute_shard(segmenter, listing.shards[number], number, sink, job.asked, job.limits)
            total += counts if sink is expected else Counts()
    begun = (out / "masks" / "000001.tar").stat().st_mtime_ns
    given = ["bulk", str(photos), str(out), "--expressions", str(words), "--shard", "1", "--to", "tar"]
    done = subprocess.run(
        [sys.executable, "-m", "refseg", *given, "--workers", "1"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    answers = f"{counted(total.masks, 'mask')}, {counted(total.nothing_fits, 'answer')} that nothing fits"
    assert done.stdout == f"3 images, {answers}, 2 failed -> {out}\n"
    assert f"refseg: note: the reasons are in {out}" in done.stderr
    assert files(out) == files(expected.folder)
    assert (out / "masks" / "000001.tar").stat().st_mtime_ns == begun
    assert total.failed == 2


def test_wrong_arguments_are_one_line(tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("it\n")
    for given in (
        ["bulk", str(PHOTOS), str(PHOTOS / "out"), "--expressions", str(words)],
        ["bulk", str(PHOTOS), str(tmp_path / "out")],
        ["bulk", str(tmp_path / "gone"), str(tmp_path / "out")],
        ["bulk", str(PHOTOS), str(tmp_path / "out"), "--expressions", str(words), "--threads", "0"],
        ["bulk", str(PHOTOS), str(tmp_path / "out"), "--expressions", str(words), "--batch", "0"],
    ):
        assert main(given) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()

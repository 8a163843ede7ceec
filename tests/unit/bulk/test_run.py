"""What is handed out to processes, and what becomes of their errors; a stand-in for Ray calls them in this process."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from refseg.bulk import run as module
from refseg.bulk.compute import Limits
from refseg.bulk.listing import list_source
from refseg.bulk.run import Job, Workers, run
from refseg.bulk.sink import Counts, Sink
from refseg.errors import ConfigError, RefsegError, WeightsError
from refseg.inputs.frame import Frame
from refseg.predictor import Predictor
from refseg.segmenter import BaseSegmenter
from refseg.values import Decision, Encoding, Prediction


class StandIn(BaseSegmenter):
    """Takes all of an image for the answer."""

    device = "cpu"
    fingerprint = "stand-in"

    def _encode(self, images, max_pixels):
        return [Encoding(self.fingerprint, Frame(64, 64, 64), {}) for _ in images]

    def _answer(self, image, expressions, decision):
        return [Prediction(text, np.ones((4, 4), np.float32), image.frame, decision) for text in expressions]


class StandInRay(ModuleType):
    """Calls what it is given, in this process; `handed_out` is what it was asked to compute."""

    class exceptions:
        class RayTaskError(Exception):
            cause = None

    def __init__(self, resources):
        super().__init__("ray")
        self.__path__ = []
        self.resources, self.started, self.handed_out = resources, [], []
        self.data = ModuleType("ray.data")
        self.data.from_items = self._from_items
        self.data.DataContext = SimpleNamespace(get_current=SimpleNamespace)

    def init(self, address, **_):
        self.started.append(address)

    def shutdown(self):
        self.started.pop()

    def cluster_resources(self):
        return self.resources

    def remote(self, **_):
        return lambda function: SimpleNamespace(remote=lambda *given: (function, given))

    def get(self, task):
        function, given = task
        try:
            return function(*given)
        except RefsegError as error:
            wrapped = self.exceptions.RayTaskError("a long text")
            wrapped.cause = error
            raise wrapped from None

    def _from_items(self, rows, **_):
        self.handed_out += [row["number"] for row in rows]

        def map_batches(kind, *, fn_constructor_args, batch_size, concurrency, num_cpus, num_gpus):
            workers = [kind(*fn_constructor_args) for _ in range(concurrency)]
            answered = (
                workers[number % concurrency]({name: [value] for name, value in row.items()})
                for number, row in enumerate(rows)
            )
            return SimpleNamespace(
                iter_rows=lambda: ({name: value[0] for name, value in one.items()} for one in answered)
            )

        return SimpleNamespace(map_batches=map_batches)


@pytest.fixture
def ray(monkeypatch):
    found = StandInRay({"CPU": 4.0})
    monkeypatch.setitem(sys.modules, "ray", found)
    monkeypatch.setitem(sys.modules, "ray.data", found.data)
    monkeypatch.setattr(module, "load", lambda *_, **__: StandIn(Decision()))
    return found


@pytest.fixture
def listing(photos, words):
    return list_source(photos, words, None, 1)


@pytest.fixture
def job(listing, tmp_path):
    return Job(sink=Sink(tmp_path / "out", "parquet"), asked=listing.asked)


def test_only_what_is_not_done_is_handed_out(ray, listing, job):
    whole = Counts(images=3, masks=6)
    assert run(listing, job, Workers()) == whole
    assert (ray.handed_out, ray.started) == ([0, 1, 2], [])
    (job.sink.folder / "done" / "000001.json").unlink()
    assert run(listing, job, Workers(count=1)) == whole
    assert ray.handed_out == [0, 1, 2, 1]
    assert run(listing, job, Workers()) == whole  # nothing is left to do
    assert len(ray.handed_out) == 4


def test_a_run_goes_on_with_the_same_settings_only(ray, listing, job, photos, words, monkeypatch):
    run(listing, job, Workers())
    begun = json.loads((job.sink.folder / "run.json").read_text())
    assert (begun["model"], begun["shards"], begun["licence"][:10]) == ("photos", 3, "Apache-2.0")
    words.write_text("another\n")
    other = list_source(photos, words, None, 1)
    smaller = Limits(max_pixels=10)
    for changed, given, word in (
        (other, job, "source"),
        (listing, Job(sink=job.sink, asked=job.asked, limits=smaller), "max_pixels"),
        (listing, Job(sink=Sink(job.sink.folder, "tar"), asked=job.asked), "format"),
    ):
        with pytest.raises(ConfigError, match=word):
            run(changed, given, Workers())
    monkeypatch.setattr(module, "load", lambda *_, **__: StandIn(Decision(threshold=0.3)))
    with pytest.raises(ConfigError, match="decision"):
        run(listing, job, Workers())
    assert ray.started == []


def test_an_error_of_a_process_is_that_of_the_command(ray, listing, job, monkeypatch):
    class Breaks(StandIn):
        def _answer(self, *_):
            raise WeightsError("not finite")

    monkeypatch.setattr(module, "load", lambda *_, **__: Breaks(Decision()))
    with pytest.raises(RefsegError, match="not finite"):
        run(listing, job, Workers())
    models = iter([StandIn(Decision()), StandIn(Decision(threshold=0.3))])
    monkeypatch.setattr(module, "load", lambda *_, **__: next(models))
    with pytest.raises(RefsegError, match="another model"):
        run(listing, job, Workers(count=1))
    monkeypatch.setattr(module, "load", lambda *_, **__: (_ for _ in ()).throw(WeightsError("missing")))
    with pytest.raises(WeightsError, match="missing"):
        run(listing, job, Workers())
    assert ray.started == []


@pytest.mark.parametrize(
    ("available", "workers", "device", "count"),
    [
        ({"CPU": 4.0}, Workers(), "cpu", 4),
        ({"CPU": 4.0}, Workers(threads=3), "cpu", 1),
        ({"CPU": 4.0}, Workers(threads=5), "cpu", None),
        ({"CPU": 4.0}, Workers(count=5), "cpu", None),
        ({"CPU": 4.0}, Workers(count=5, address="auto"), "cpu", 5),  # a cluster may grow
        ({"CPU": 16.0, "GPU": 2.0}, Workers(threads=4), "cuda", 2),
        ({"CPU": 4.0}, Workers(), "cuda", None),
    ],
)
def test_as_many_processes_as_there_are_cores_or_gpus(available, workers, device, count, job):
    resources = module._resources(workers, Job(sink=job.sink, device=device))
    if count is None:
        with pytest.raises(ConfigError, match="do not fit"):
            module._count(available, resources, workers)
    else:
        assert module._count(available, resources, workers) == count


def test_without_ray_it_says_what_to_install(listing, job, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"refseg\[bulk\]"):
        run(listing, job, Workers())
    with pytest.raises(ConfigError):
        Workers(threads=0)


def test_a_cluster_that_cannot_be_reached_is_one_line(ray, listing, job, monkeypatch):
    def fails(address, **_):
        raise Exception("The current node timed out\nduring startup")

    monkeypatch.setattr(ray, "init", fails, raising=False)
    with pytest.raises(ConfigError, match=r"at 10\.0\.0\.1:6379: The current node timed out during startup"):
        run(listing, job, Workers(address="10.0.0.1:6379"))


def test_a_model_is_loaded_as_the_job_says(job, model_folder):
    segmenter = Job(sink=job.sink, model=str(model_folder), runtime="torch").load()
    assert isinstance(segmenter, Predictor)
    assert segmenter.device == "cpu"

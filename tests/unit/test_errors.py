"""Errors: one tree, drawn at the top of its file, and messages that help."""

from __future__ import annotations

import inspect

import pytest

from refseg import errors
from refseg.errors import ConfigError, RefsegError, StoppedError, UnknownNameError, counted, did_you_mean

KINDS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]


def test_every_error_is_a_refseg_error():
    assert all(issubclass(kind, RefsegError) for kind in KINDS)


def test_the_tree_at_the_top_is_the_real_one():
    drawn, path = {}, []
    for line in errors.__doc__.splitlines():
        name = next((word for word in line.split() if word.endswith("Error")), None)
        if name is None or not (line.startswith(("RefsegError", "├", "└", "│"))):
            continue
        depth = line.index(name) // 4
        path[depth:] = [name]
        drawn[name] = path[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in KINDS}


@pytest.mark.parametrize(
    ("name", "builtin"), [("InputError", ValueError), ("OutputError", OSError), ("UnknownNameError", LookupError)]
)
def test_the_usual_exceptions_catch_them_too(name, builtin):
    assert issubclass(getattr(errors, name), builtin)


def test_an_unknown_name_says_what_was_meant_and_what_is_known():
    error = UnknownNameError("model", "shape", ["shapes", "cris-r50"])
    assert str(error) == "unknown model 'shape', did you mean 'shapes'?; known are: cris-r50, shapes"
    assert error.name == "shape"


def test_nouns_are_counted():
    assert [counted(number, "row") for number in (0, 1, 2, 2000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]
    assert [counted(number, "mask has", "masks have") for number in (1, 2)] == ["1 mask has", "2 masks have"]


def test_did_you_mean_is_silent_where_nothing_is_close():
    assert did_you_mean("epoch", ["epochs", "seed"]) == ", did you mean 'epochs'?"
    assert did_you_mean("zzz", ["epochs", "seed"]) == ""
    assert did_you_mean("zzz", []) == ""


def test_an_error_can_be_pickled():
    """A worker process hands its errors over so."""
    import pickle

    for error in (ConfigError("wrong"), UnknownNameError("model", "shape", ["shapes"]), StoppedError(15, 7)):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.exit_code) == (str(error), error.exit_code)

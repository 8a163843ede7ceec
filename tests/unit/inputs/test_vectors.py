"""Word vectors from files that a user has."""

import json

import msgpack
import numpy as np
import pytest

from refseg.errors import InputError
from refseg.inputs.vectors import read_vectors, spacy_hash


def test_vectors_of_glove(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("the 1 2 3\nThe 4 5 6\n. . . 7 8 9\nleft -1 0.5 1e-2\n")
    words, vectors = read_vectors(path)
    assert words == ("the", ". . .", "left")
    np.testing.assert_allclose(vectors, [[1, 2, 3], [7, 8, 9], [-1, 0.5, 0.01]])
    assert read_vectors(path, most=1).words == ("the",)


def test_vectors_of_word2vec(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("2 3\nthe 1 2 3\ncup 4 5 6\n")
    assert read_vectors(path).words == ("the", "cup")


def test_vectors_of_spacy(tmp_path):
    folder = tmp_path / "en_vectors" / "vocab"
    folder.mkdir(parents=True)
    with (folder / "vectors").open("wb") as file:
        np.save(file, np.arange(6, dtype=np.float32).reshape(2, 3))
    (folder / "key2row").write_bytes(msgpack.packb({spacy_hash("cup"): 1, spacy_hash("the"): 0}))
    (folder / "strings.json").write_text(json.dumps(["the", "unknown", "cup"]))
    words, vectors = read_vectors(tmp_path / "en_vectors")
    assert words == ("the", "cup")
    np.testing.assert_array_equal(vectors, [[0, 1, 2], [3, 4, 5]])


def test_words_are_numbered_as_spacy_does():
    assert spacy_hash("coffee") == 3197928453018144401, "the example of spaCy's documentation"


@pytest.mark.parametrize("text", ["", "the 1 2\ncup 1\n", "the 1 nan\n", "the a b\n"])
def test_broken_files_are_errors(tmp_path, text):
    path = tmp_path / "vectors.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="cannot be read as word vectors"):
        read_vectors(path)


def test_missing_files_are_errors_that_say_where_vectors_are(tmp_path):
    with pytest.raises(InputError, match="glove"):
        read_vectors(tmp_path / "missing.txt")

"""Tokens equal those of OpenAI's tokenizer, recorded in clip_bpe_golden.json, and any text becomes some."""

import gzip
import json
import pickle
import runpy
import sys
import time
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.errors import ConfigError, ExpressionError
from refseg.inputs.clip_bpe import (
    END_TOKEN,
    START_TOKEN,
    VOCABULARY_SIZE,
    WORD_LENGTH,
    WORD_LENGTH_REFCOCOG,
    Tokenizer,
    check_expression,
    expression_list,
)
from refseg.inputs.preprocessing import Inputs

ROOT = Path(__file__).parents[3]
GOLDEN = json.loads((ROOT / "tests/data/clip_bpe_golden.json").read_text(encoding="utf-8"))
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
PAIRS = [
    *((entry["text"], entry["ids"]) for entry in GOLDEN["real_expressions"] + GOLDEN["edge_cases"]),
    *((entry["text"], entry["openai_ids"]) for entry in GOLDEN["published"]),
]
PAIRS = [(text, ids) for text, ids in PAIRS if not any(special in text for special in SPECIAL)]


def test_equals_the_recorded_tokens():
    tokenizer = Tokenizer()
    assert len(PAIRS) > 670
    assert [(text, tokenizer.encode(text)) for text, _ in PAIRS] == PAIRS


@pytest.mark.parametrize("length", [2, 3, WORD_LENGTH, WORD_LENGTH_REFCOCOG, 77])
def test_a_batch_is_the_recorded_tokens_cut_and_padded(length):
    made = Tokenizer(length)([text for text, _ in PAIRS])
    assert made.tokens.shape == made.padding.shape == (len(PAIRS), length)
    assert made.tokens.dtype == np.int64
    assert made.padding.dtype == bool
    for row, padding, truncated, (_, ids) in zip(made.tokens, made.padding, made.truncated, PAIRS, strict=True):
        kept = ids if len(ids) <= length else [*ids[: length - 1], END_TOKEN]
        assert row.tolist() == kept + [0] * (length - len(kept))
        assert padding.tolist() == [False] * len(kept) + [True] * (length - len(kept))
        assert truncated == (len(ids) > length)


@pytest.mark.parametrize("special", SPECIAL)
def test_special_tokens_cannot_be_written(special):
    tokens = Tokenizer().encode(f"a {special}dog{special}")
    assert tokens[0] == START_TOKEN
    assert tokens[-1] == END_TOKEN
    assert not {START_TOKEN, END_TOKEN} & set(tokens[1:-1])
    assert len(tokens) > 8  # it stays in the text, letter by letter


def test_a_token_zero_is_not_padding():
    ids = Tokenizer().encode("!/ cup")  # an exclamation mark that does not end its piece is token 0
    assert 0 in ids
    assert Tokenizer(9)(["!/ cup"]).padding[0].tolist() == [False] * len(ids) + [True] * (9 - len(ids))


def test_nothing_and_no_expressions():
    assert Tokenizer().encode("") == [START_TOKEN, END_TOKEN]
    made = Tokenizer(5)([])
    assert made.tokens.shape == (0, 5)
    assert made.truncated == ()


@given(text=st.text(st.characters(exclude_categories=())), length=st.integers(2, 77))
@settings(max_examples=150, deadline=None)
def test_any_text_becomes_tokens(text, length):
    tokenizer = Tokenizer(length)
    ids = tokenizer.encode(text)
    assert ids[0] == START_TOKEN
    assert ids[-1] == END_TOKEN
    assert all(0 <= number < START_TOKEN for number in ids[1:-1])
    made = tokenizer([text])
    kept = ids if len(ids) <= length else [*ids[: length - 1], END_TOKEN]
    assert made.tokens[0].tolist() == kept + [0] * (length - len(kept))
    assert (~made.padding[0]).sum() == len(kept)
    assert made.truncated == (len(ids) > length,)


@given(text=st.text("abc XYZ'!?.,&;ltgmp<>0123 \t\n\u00a0\u00e9\u4e2d\U0001f600", max_size=200))
@settings(max_examples=150, deadline=None)
def test_case_and_space_do_not_matter(text):
    tokenizer = Tokenizer()
    spaced = "  " + text.replace(" ", " \t ") + "\n"
    assert tokenizer.encode(spaced) == tokenizer.encode(text)
    if "&" not in text:  # entities have a case
        assert tokenizer.encode(text.lower()) == tokenizer.encode(text)


@given(words=st.lists(st.text("abcdef'!.\u00e9\u4e2d", min_size=1, max_size=6), max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_long_text_is_cut_where_all_of_its_tokens_would_be(words):
    text = " ".join(words)
    whole = Tokenizer().encode(text)
    made = Tokenizer(9)([text])
    kept = whole if len(whole) <= 9 else [*whole[:8], END_TOKEN]
    assert made.tokens[0, : len(kept)].tolist() == kept


@pytest.mark.parametrize(
    "text",
    [
        "the cup on the left " * 50_000,
        "the cup on the left &amp; " * 20_000,
        "a" * 200_000,
        "\u4e2d\u6587" * 50_000,
        "\U0001f600" * 10_000,
        "a\x00b " * 10_000,
        "\ud800 cup " * 10_000,
        "!" * 10_000,
    ],
    ids=["book", "entities", "one word", "Chinese", "emoji", "NUL", "surrogates", "marks"],
)
def test_huge_texts_are_quick(text):
    start = time.perf_counter()
    made = Tokenizer()([text])
    assert check_expression(text) is text
    assert time.perf_counter() - start < 5  # a fraction of a second each; room for a busy machine
    assert made.truncated == (True,)
    assert made.tokens[0, -1] == END_TOKEN


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("the Cat's red-striped ball!", ["the", "Cat's", "red-striped", "ball!"]),
        ("  caf\u00e9\u00a0Cr\u00e8me\t12 ", ["caf\u00e9", "Cr\u00e8me", "12"]),
        ("R&amp;D &nbsp; l\u2019homme", ["R&D", "l'homme"]),
        ("\u00c3\u00a9t\u00c3\u00a9 \U0001f600", ["\u00e9t\u00e9", "\U0001f600"]),
    ],
)
def test_words_as_written_have_the_tokens_of_the_text(text, written):
    tokenizer = Tokenizer(40)
    words = tokenizer.words(text)
    assert [word for word, _ in words] == written
    (row,) = tokenizer([text]).tokens.tolist()
    for word, places in words:
        assert row[places.start : places.stop] == tokenizer.encode(word)[1:-1]
    assert [place for _, places in words for place in places] == list(range(1, row.index(END_TOKEN)))


def test_words_that_are_cut_off_are_left_out():
    assert Tokenizer(5).words("The zebra crossing beyond") == [
        ("The", range(1, 2)),
        ("zebra", range(2, 3)),
        ("crossing", range(3, 4)),
    ]
    assert Tokenizer(3).words("photosynthesis, indeed") == [("photosynthesis,", range(1, 2))]
    assert Tokenizer(2).words("left") == []


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u00a0\u3000", "&nbsp;", "\x00\x01"])
def test_a_blank_expression_is_an_error(text):
    with pytest.raises(ExpressionError, match="blank") as caught:
        check_expression(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, 3, b"cup", ["cup"]])
@pytest.mark.usefixtures("unchecked")
def test_what_is_not_text_is_an_error(text):
    for use in (check_expression, Tokenizer().encode, lambda value: Tokenizer()([value])):
        with pytest.raises(ExpressionError, match=type(text).__name__):
            use(text)


@pytest.mark.parametrize("value", ["the cup", b"the cup", {"the cup"}, {"the cup": 1}, None, 3])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_list_of_expressions_is_an_error(value):
    for use in (expression_list, Tokenizer(), Inputs(image_size=32, word_length=6).tokens):
        with pytest.raises(ExpressionError, match="list"):
            use(value)


def test_any_order_of_expressions_is_a_list_of_them():
    texts = ["the cup", "the ring"]
    for value in (texts, tuple(texts), iter(texts), np.array(texts)):
        assert expression_list(value) == texts


def test_an_expression_is_returned_verbatim():
    assert check_expression("  The CUP &amp; \U0001f600 ") == "  The CUP &amp; \U0001f600 "


@pytest.mark.parametrize("length", [1, 0, -1, 78, 17.0, "17", True, None])
@pytest.mark.usefixtures("unchecked")
def test_word_length_out_of_range_is_an_error(length):
    with pytest.raises(ConfigError, match="2 to 77"):
        Tokenizer(length)


def test_a_tokenizer_travels_to_worker_processes():
    tokenizer = Tokenizer(22)
    tokenizer.encode("warm")
    assert pickle.loads(pickle.dumps(tokenizer)).word_length == 22


def test_the_vocabulary_file_is_rebuilt_byte_for_byte(tmp_path, monkeypatch):
    packed = resources.files("refseg.inputs").joinpath("bpe_merges.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode("utf-8")
    assert merges.count("\n") == VOCABULARY_SIZE - 2 * 256 - 2
    original = '"bpe_simple_vocab_16e6.txt#version: 0.2\n' + merges + "and more\n"
    with zipfile.ZipFile(tmp_path / "open_clip_torch.whl", "w") as wheel:
        wheel.writestr("open_clip/bpe_simple_vocab_16e6.txt.gz", gzip.compress(original.encode("utf-8")))
    written = []
    for name in ("one.gz", "two.gz"):
        arguments = ["build_vocabulary.py", str(tmp_path / "open_clip_torch.whl"), "--output", str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(ROOT / "scripts/build_vocabulary.py"), run_name="__main__")
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert gzip.decompress(written[0]).decode("utf-8") == merges
    assert packed[4:8] == b"\0\0\0\0"  # no time

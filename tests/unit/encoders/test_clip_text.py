"""CLIP's text transformer, and the parts that models run one by one."""

import pytest
import torch

from refseg.encoders.clip_text import TextConfig, TextTransformer

TOKENS = torch.tensor([[48, 3, 4, 49, 0, 0, 0], [48, 9, 8, 7, 6, 5, 49], [48, 49, 2, 49, 0, 0, 0]])


@pytest.fixture
def text():
    torch.manual_seed(0)
    return TextTransformer(
        TextConfig(width=16, heads=2, layers=2, output_dim=12, context_length=9, vocabulary_size=50)
    ).eval()


def test_the_parts_equal_the_forward_pass(text):
    x = text.embed(TOKENS)
    assert x.shape == (3, 7, 16)
    for block in text.blocks:
        x = block(x, text.causal_mask(7, x))
    words, sentence = text(TOKENS)
    assert torch.equal(text.ln_final(x), words)
    assert torch.equal(text.project(text.sentence_of(words, TOKENS)), sentence)


def test_all_tokens_can_be_projected(text):
    words, sentence = text(TOKENS)
    projected = text.project(words)
    assert projected.shape == (3, 7, 12)
    torch.testing.assert_close(projected, torch.einsum("bld,de->ble", words, text.text_projection))
    # The end token may be selected before or after the projection.
    torch.testing.assert_close(text.sentence_of(projected, TOKENS), sentence)


def test_the_first_end_token_represents_the_expression(text):
    words = torch.arange(21.0).reshape(3, 7, 1)
    assert text.sentence_of(words, TOKENS).flatten().tolist() == [3.0, 7 + 6.0, 14 + 1.0]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_tokens_attend_to_earlier_tokens_only(text, kind):
    mask = text.causal_mask(3, torch.empty(1, dtype=kind))
    inf = float("inf")
    assert mask.dtype == kind
    assert mask.tolist() == [[0, -inf, -inf], [0, 0, -inf], [0, 0, 0]]
    changed = TOKENS.clone()
    changed[:, 4:] = 1
    assert torch.equal(text(changed).words[:, :4], text(TOKENS).words[:, :4])

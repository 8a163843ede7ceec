"""The networks compute what they compute in the library alone, though the image is encoded once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.inputs.frame import Frame
from refseg.peers.florence import polygons
from refseg.peers.grounding_dino import GroundingDino
from refseg.peers.sam import Sam, Sam2
from refseg.peers.sam3 import Sam3Choice, Sam3Network
from refseg.peers.stored import StoredPeer

pytestmark = pytest.mark.slow  # PyTorch networks of another library

transformers = pytest.importorskip("transformers", exc_type=ImportError)

CPU = torch.device("cpu")
DINO, SAM, SAM2, SAM3, FLORENCE = (
    "IDEA-Research/grounding-dino-tiny",
    "facebook/sam-vit-base",
    "facebook/sam2.1-hiera-tiny",
    "facebook/sam3",
    "florence-community/Florence-2-base-ft",
)


@pytest.fixture
def image(photo):
    return Image.open(photo)


@pytest.mark.parametrize("expression", ["the red disc", "Blue. Square?"])
def test_boxes_are_those_of_the_whole_network(folder_of, image, expression):
    found = GroundingDino(folder_of(DINO), CPU)
    whole = transformers.GroundingDinoForObjectDetection.from_pretrained(folder_of(DINO)).eval()
    tokens = found.tokenizer(found.prompt(expression), return_tensors="pt")
    with torch.inference_mode():
        boxes, scores = found.boxes(found.encode(image), expression)
        outputs = whole(pixel_values=torch.from_numpy(found.preparation.pixels(image))[None], **tokens)
    processor = transformers.GroundingDinoProcessor(transformers.GroundingDinoImageProcessorPil(), found.tokenizer)
    (expected,) = processor.post_process_grounded_object_detection(outputs, tokens.input_ids, target_sizes=[(1, 1)])
    order = expected["scores"].argsort(descending=True)
    assert len(boxes) == len(order) > 1
    torch.testing.assert_close(scores, expected["scores"][order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(boxes, expected["boxes"][order].clamp(0, 1), atol=1e-5, rtol=1e-5)


def test_an_expression_is_one_phrase_in_lower_case():
    assert GroundingDino.prompt(" The  man in No. 7? ") == "the man in no 7."


@pytest.mark.parametrize(("kind", "repository", "network"), [(Sam, SAM, "SamModel"), (Sam2, SAM2, "Sam2Model")])
@pytest.mark.parametrize("turned", [False, True])
def test_masks_are_those_of_the_whole_network(folder_of, image, kind, repository, network, turned):
    image = image.transpose(Image.Transpose.ROTATE_90) if turned else image
    found = kind(folder_of(repository), CPU)
    whole = getattr(transformers, network).from_pretrained(folder_of(repository)).eval()
    pixels = torch.from_numpy(found.preparation.pixels(image))
    height, width = pixels.shape[-2:]
    square = torch.zeros(1, 3, 64, 64)
    square[0, :, :height, :width] = pixels
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9], [0.5, 0.0, 1.0, 1.0]])
    with torch.inference_mode():
        maps, expected_iou = found.masks(found.encode(image), boxes, image.height, image.width)
        outputs = whole(
            pixel_values=square,
            input_boxes=(boxes * torch.tensor([width, height, width, height]))[None],
            multimask_output=False,
        )
    small = torch.nn.functional.interpolate(outputs.pred_masks[0], (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps, small[:, 0, :height, :width].sigmoid(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(expected_iou, outputs.iou_scores[0, :, 0].clamp(0, 1), atol=1e-5, rtol=1e-5)
    assert (maps[0] - maps[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "repository", "network"), [(Sam, SAM, "SamModel"), (Sam2, SAM2, "Sam2Model")])
def test_a_draft_enters_the_whole_network_as_its_low_resolution_mask(folder_of, image, kind, repository, network):
    found = kind(folder_of(repository), CPU)
    whole = getattr(transformers, network).from_pretrained(folder_of(repository)).eval()
    pixels = torch.from_numpy(found.preparation.pixels(image))
    height, width = pixels.shape[-2:]
    square = torch.zeros(1, 3, 64, 64)
    square[0, :, :height, :width] = pixels
    low = 4 * whole.prompt_encoder.image_embedding_size[0]
    rows, columns = height * low // 64, width * low // 64
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.9]])
    # Of the size at which it enters, so that it is not resized; hard masks have infinite logits.
    draft = torch.full((rows, columns), -torch.inf)
    draft[rows // 4 :, : columns // 2] = torch.inf
    small = torch.full((1, 1, low, low), -10.0)
    small[0, 0, :rows, :columns] = draft.clamp(-10, 10)
    with torch.inference_mode():
        levels = found.encode(image)
        logits, _ = found.logits(levels, boxes, image.height, image.width, draft)
        without, _ = found.logits(levels, boxes, image.height, image.width)
        outputs = whole(
            pixel_values=square,
            input_boxes=(boxes * torch.tensor([width, height, width, height]))[None],
            input_masks=small,
            multimask_output=False,
        )
    expected = torch.nn.functional.interpolate(outputs.pred_masks[0], (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, expected[:, 0, :height, :width], atol=1e-4, rtol=1e-5)
    assert (logits - without).abs().max() > 1e-3


@pytest.mark.parametrize("words", ["red  disc", "cup " * 20])
def test_objects_are_those_of_the_whole_network(folder_of, image, words, monkeypatch):
    monkeypatch.setattr("refseg.peers.sam3.INSTANCE_THRESHOLD", 0.0)
    found = Sam3Network(folder_of(SAM3), CPU)
    whole = transformers.Sam3Model.from_pretrained(folder_of(SAM3)).eval()
    pixels = torch.from_numpy(found.preparation.pixels(image))[None]
    read = " ".join(words.split())
    # The library's processor does not cut, and its network cannot read more than 32.
    tokens = found.tokenizer(read, return_tensors="pt", padding="max_length", max_length=32, truncation=True)
    with torch.inference_mode():
        logits, scores = found.objects(found.encode(image), words)
        outputs = whole(pixel_values=pixels, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
    expected = (outputs.pred_logits[0].sigmoid() * outputs.presence_logits[0].sigmoid()).sort(descending=True)
    assert len(scores) == 12
    torch.testing.assert_close(scores, expected.values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, outputs.pred_masks[0, expected.indices], atol=1e-4, rtol=1e-4)
    assert (logits[0] - logits[-1]).abs().max() > 1e-3


def test_the_object_that_shares_most_with_a_draft_is_chosen(folder_of, monkeypatch):
    maker = Sam3Choice(folder_of(SAM3), CPU)
    left, right = torch.full((2, 16, 16), -3.0)
    left[:, :8] = right[:, 8:] = 3.0
    monkeypatch.setattr(maker, "objects", lambda *_: (torch.stack([left, right]), torch.tensor([0.9, 0.4])))
    draft = torch.full((64, 96), -torch.inf)
    draft[:, 60:] = torch.inf
    assert torch.equal(maker.redraw({}, "cup", torch.tensor([0.6, 0.0, 1.0, 1.0]), draft), right)
    monkeypatch.setattr(maker, "objects", lambda *_: (torch.zeros(0, 16, 16), torch.zeros(0)))
    assert not (maker.redraw({}, "cup", torch.tensor([0.6, 0.0, 1.0, 1.0]), draft) > 0).any()


def test_florence_writes_what_the_whole_network_writes(hub_cache, folder_of, image):
    from refseg.peers.load import load_peer

    florence = load_peer(StoredPeer(peer="florence-2"), "cpu")
    whole = transformers.Florence2ForConditionalGeneration.from_pretrained(folder_of(FLORENCE)).eval()
    tokenizer = florence.tokenizer
    texts = [f"Locate {words} in the image with mask" for words in ("it", "the red disc")]
    pixels = torch.from_numpy(florence.preparation.pixels(image))[None]
    with torch.inference_mode():
        seen = florence.look(image)["image"]
        found = list(florence._written(seen, texts))
        for (tokens, score, cut), text in zip(found, texts, strict=True):
            marks = [whole.config.image_token_id] * seen.shape[1]
            ids = torch.tensor([[*marks, *tokenizer(text).input_ids]])
            (written,) = whole.generate(input_ids=ids, pixel_values=pixels, max_length=96, do_sample=False).tolist()
            expected = tokenizer.convert_ids_to_tokens(written)
            assert tokens[: len(expected)] == expected
            assert set(tokens[len(expected) :]) <= {"<pad>"}
            logits = whole(input_ids=ids, pixel_values=pixels, decoder_input_ids=torch.tensor([written[:-1]])).logits
            chances = logits[0].softmax(dim=-1)[range(len(written) - 1), written[1:]]
            assert score == pytest.approx(float(chances.log().mean().exp()), rel=1e-3)
            assert not cut


def test_polygons_are_read_from_locations():
    words = "</s> <s> <loc_0> <loc_0> <loc_499> <loc_0> <loc_499> <loc_999> <sep> <loc_5> <loc_5> <loc_7> <loc_8> </s>"
    assert polygons(words.split()) == [[0.0005, 0.0005, 0.4995, 0.0005, 0.4995, 0.9995]]
    # A coordinate without its pair belongs to no corner.
    corners = [f"<loc_{place}>" for place in (100, 100, 900, 100, 900, 900, 100)]
    assert polygons(corners) == [[0.1005, 0.1005, 0.9005, 0.1005, 0.9005, 0.9005]]
    assert polygons(["</s>", "no", "</s>"]) == []


def test_an_answer_lies_where_the_image_lies():
    from refseg.peers.base import _in_square

    seen = torch.zeros(32, 32)
    seen[:, 16:] = 1
    for height, width, size in ((40, 60, 60), (600, 900, 60)):
        frame = Frame(height, width, size)
        restored = frame.restore(_in_square(seen, frame))
        assert np.mean(restored[:, int(width * 0.55) :] > 0.5) > 0.95
        assert not (restored[:, : int(width * 0.45)] > 0.5).any()

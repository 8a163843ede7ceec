"""Tiny models of other people's architectures, with random weights, in a cache of the Hub at their pinned revisions."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from refseg.peers.table import PEERS

WORDS = ("the", "red", "blue", "disc", "square", "on", "left", "right", "cup")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail at the first look-up or connection that leaves the process."""

    def leave(*address, **_):
        raise AssertionError(f"a test of other people's models leaves the machine: {address}")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, leave)
    monkeypatch.setattr(socket.socket, "connect", leave)


@pytest.fixture
def hub_cache(monkeypatch, tiny_cache):
    """The settings of the Hub's client, which is offline and has the tiny models in its cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tiny_cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tiny_cache


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory) -> Path:
    """A cache of the Hub's client with a tiny model for each part of the table."""
    pytest.importorskip("transformers", exc_type=ImportError)
    cache = tmp_path_factory.mktemp("hub")
    parts = {part.repository: part for entry in PEERS.values() for part in entry.parts}
    for repository, make in MAKERS.items():
        folder = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / parts[repository].revision
        folder.mkdir(parents=True)
        make(folder)
        assert {path.name for path in folder.iterdir()} >= set(parts[repository].files)
    assert set(MAKERS) == set(parts)
    return cache


@pytest.fixture
def folder_of(tiny_cache):
    """The folder of a repository's tiny model."""
    return lambda repository: next((tiny_cache / f"models--{repository.replace('/', '--')}" / "snapshots").iterdir())


def save(network, folder):
    """Write a network whose weights are large enough that its answers differ."""
    torch.manual_seed(9)
    for value in network.parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.3)
    network.save_pretrained(folder)


def prepares(folder, size, resample=2):
    stated = {
        "size": size,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": resample,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))


def make_grounding_dino(folder):
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        PreTrainedTokenizerFast,
        SwinConfig,
    )

    # The network knows the special tokens by BERT's numbers.
    vocabulary = {f"[unused{number}]": number for number in range(1100)}
    places = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
    places |= {word: 200 + number for number, word in enumerate(WORDS)}
    vocabulary = {token: number for token, number in vocabulary.items() if number not in places.values()} | places
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    swin = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )
    bert = BertConfig(
        vocab_size=1100,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    config = GroundingDinoConfig(
        backbone_config=swin,
        text_config=bert,
        d_model=64,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        num_queries=8,
        max_text_len=16,
    )
    save(GroundingDinoForObjectDetection(config), folder)
    prepares(folder, {"shortest_edge": 64, "longest_edge": 96})


def make_sam(folder):
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16,
            output_channels=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
            window_size=2,
            global_attn_indexes=[0],
            mlp_dim=16,
            num_pos_feats=8,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
        ),
    )
    save(SamModel(config), folder)
    prepares(folder, {"longest_edge": 64})


def make_sam2(folder):
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig

    hiera = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=hiera,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    # The published files are those of the model for videos, of which the model for images is a part.
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
        image_size=64,
        num_maskmem=2,
        memory_attention_hidden_size=32,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=16,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=32,
        memory_encoder_output_channels=8,
        mask_downsampler_embed_dim=32,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=32,
        memory_fuser_intermediate_dim=16,
    )
    save(Sam2VideoModel(config), folder)
    prepares(folder, {"height": 64, "width": 64})


def make_florence(folder):
    from transformers import (
        BartConfig,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2VisionConfig,
        PreTrainedTokenizerFast,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    added = [*(f"<loc_{number}>" for number in range(1000)), "<poly>", "</poly>", "<sep>", "<image>"]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    size = tokenizer.get_vocab_size()
    vision = Florence2VisionConfig(
        depths=[1, 1, 1, 1],
        embed_dim=[8, 8, 8, 8],
        num_heads=[1, 1, 1, 1],
        num_groups=[1, 1, 1, 1],
        window_size=2,
        projection_dim=16,
        max_position_embeddings=8,
    )
    text = BartConfig(
        vocab_size=size,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=96,
        forced_eos_token_id=None,
    )
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=tokenizer.token_to_id("<image>"))
    network = Florence2ForConditionalGeneration(config)
    # The published files ask for beam search without repetitions, too.
    network.generation_config.num_beams = 3
    network.generation_config.no_repeat_ngram_size = 3
    save(network, folder)
    prepares(folder, {"height": 64, "width": 64}, resample=3)


def make_sam3(folder):
    from transformers import CLIPTokenizer, Sam3VideoConfig, Sam3VideoModel

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "pretrain_image_size": 28,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [1],
    }
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone,
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 16, "dropout": 0.0}
    detector = {
        "vision_config": vision,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": len(tokens),
            "hidden_size": 16,
            "intermediate_size": 16,
            "projection_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "bos_token_id": len(tokens) - 2,
            "eos_token_id": len(tokens) - 1,
        },
        "geometry_encoder_config": {**small, "num_layers": 1, "roi_size": 2},
        "detr_encoder_config": {**small, "num_layers": 1},
        "detr_decoder_config": {**small, "num_layers": 2, "num_queries": 12},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2, "num_upsampling_stages": 3},
    }
    tracker = {
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 56, "patch_size": 14, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": 32,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
        "num_maskmem": 2,
        "memory_attention_hidden_size": 32,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 16,
        "memory_attention_rope_feat_sizes": [4, 4],
        "memory_encoder_hidden_size": 32,
        "memory_encoder_output_channels": 8,
        "mask_downsampler_embed_dim": 32,
        "memory_fuser_num_layers": 1,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 16,
    }
    # The published files are those of the model for videos, of which the model for images is a part.
    save(Sam3VideoModel(Sam3VideoConfig(detector_config=detector, tracker_config=tracker)), folder)
    size = {"height": 56, "width": 56}
    stated = {"image_processor": {"size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}}
    (folder / "processor_config.json").write_text(json.dumps(stated))


MAKERS = {
    "IDEA-Research/grounding-dino-tiny": make_grounding_dino,
    "facebook/sam-vit-base": make_sam,
    "facebook/sam2.1-hiera-tiny": make_sam2,
    "florence-community/Florence-2-base-ft": make_florence,
    "florence-community/Florence-2-large-ft": make_florence,
    "facebook/sam3": make_sam3,
}

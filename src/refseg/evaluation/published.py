"""Published results on the RefCOCO family, each with its kind of IoU and the source that it was read in.

oIoU, which many papers call cIoU, is overall IoU; mIoU is mean IoU. They are never mixed: a source's table that mixes
them is split here, and a note says where the kind was not stated by the source itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

__all__ = ["PUBLISHED", "Metric", "Published", "Source", "Training", "catalogue_name", "published"]

Metric: TypeAlias = Literal["mIoU", "oIoU"]
Training: TypeAlias = Literal["per set", "mixed", "zero-shot"]
"""On the training split of the one set; on several sets or more than them; or on none of them."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a number was read."""

    name: str
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published number."""

    system: str
    backbone: str
    """Empty where it is not known."""
    metric: Metric
    data: str
    """The name of a data set in `refseg.data.catalogue.DATA_SETS`."""
    split: str
    value: float
    """In percent."""
    trained_on: Training
    sources: tuple[Source, ...]
    counted_by: str | None = None
    """The protocol of `refseg.evaluation.protocols` that its code follows; None where that is not known."""
    note: str = ""


CRIS = Source(name="README of the CRIS repository", url="https://github.com/DerrickWang005/CRIS.pytorch")
LAVT = Source(name="README of the LAVT repository", url="https://github.com/yz93/LAVT-RIS")
DMMI = Source(name="README of the DMMI repository", url="https://github.com/toggle1995/RIS-DMMI")
DETRIS = Source(name="README of the DETRIS repository", url="https://github.com/jiaqihuang01/DETRIS")
SURVEY = Source(name="survey of Ding et al., 2025, table 2", url="https://arxiv.org/abs/2508.00265")
SAFIRE = Source(name="SaFiRe, NeurIPS 2025, tables 1 and 2", url="https://arxiv.org/abs/2510.10160")
SERA = Source(name="SERA, 2026", url="https://arxiv.org/abs/2603.12538")
REVIEW = Source(name="a review of a later paper on OpenReview")
WIZWAND = Source(name="page of RISCLIP on wizwand.com")
RP_ETRIS = Source(name="README of the RP_ETRIS repository", url="https://github.com/HuiLingLiu-pumpkin/RP_ETRIS")
EVF_SAM = Source(name="EVF-SAM, 2024", url="https://arxiv.org/abs/2406.20076")
LENS = Source(name="LENS, AAAI 2026", url="https://arxiv.org/abs/2508.14153")
UNICOM = Source(name="downstream README of the unicom repository", url="https://github.com/deepglint/unicom")
SA2VA = Source(name="Sa2VA")
SEGDEP = Source(name="SeGDeP, 2026")
BANANA = Source(name="Vision Banana, 2026")
ULTRALYTICS = Source(name="Ultralytics' documentation of SAM 3")

SPLITS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "refcoco": ("val", "testA", "testB"),
        "refcoco+": ("val", "testA", "testB"),
        "refcocog-umd": ("val", "test"),
        "refcocog-google": ("val",),
    }
)
"""The splits of each set in the order in which papers print them."""
OTHER_NAMES: MappingProxyType[str, str] = MappingProxyType(
    {
        "cris/refcoco": "refcoco",
        "cris/refcoco+": "refcoco+",
        "cris/refcocog_u": "refcocog-umd",
        "cris/refcocog_g": "refcocog-google",
    }
)
"""What the sets are called in files that were prepared for the reference CRIS."""


def _row(
    system: str,
    backbone: str,
    metric: Metric,
    *sources: Source,
    refcoco: tuple[float, ...] = (),
    plus: tuple[float, ...] = (),
    umd: tuple[float, ...] = (),
    google: tuple[float, ...] = (),
    trained_on: Training = "per set",
    counted_by: str | None = None,
    note: str = "",
    notes: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Published]:
    """Yield the numbers of one row of a paper's table; `notes` are of single numbers, named `set:split`."""
    for data, values in zip(SPLITS, (refcoco, plus, umd, google), strict=True):
        for split, value in zip(SPLITS[data], values, strict=False):
            yield Published(
                system=system,
                backbone=backbone,
                metric=metric,
                data=data,
                split=split,
                value=value,
                trained_on=trained_on,
                sources=sources,
                counted_by=counted_by,
                note=notes.get(f"{data}:{split}", note),
            )


SWIN = "Swin-B + BERT"
BY_CODE = "the kind of IoU was read in the official code"
LEAK = "LENS' authors: its Mask2Former weights were trained on COCO 2017, which overlaps these splits"
LISTED = "listed among cIoU rows there"
HEADED = "[inferred] the source's table is headed mIoU"


def _per_set() -> Iterator[Published]:
    """Yield the systems that were trained on the training split of the set that they are scored on."""
    yield from _row(
        *("MCN", "Darknet-53 + GRU", "mIoU", SURVEY),
        refcoco=(62.44, 64.20, 59.71),
        plus=(50.62, 54.99, 44.69),
        umd=(49.22, 49.40),
        note=BY_CODE,
    )
    yield from _row(
        *("EFN", "Wide ResNet-101 + GRU", "oIoU", SURVEY),
        refcoco=(62.76, 65.69, 59.67),
        plus=(51.50, 55.24, 43.01),
        google=(51.93,),
    )
    yield from _row(
        *("LTS", "Darknet-53 + GRU", "oIoU", SURVEY),
        refcoco=(65.43, 67.76, 63.08),
        plus=(54.21, 58.32, 48.02),
        umd=(54.40, 54.25),
    )
    yield from _row(
        *("VLT (2021)", "Darknet-53 + GRU", "mIoU", SURVEY),
        refcoco=(65.65, 68.29, 62.73),
        plus=(55.50, 59.20, 49.36),
        umd=(52.99, 56.65),
        note=BY_CODE,
    )
    yield from _row(
        *("CRIS", "CLIP ResNet-50", "mIoU", CRIS),
        refcoco=(69.52, 72.72, 64.70),
        plus=(61.39, 67.10, 52.48),
        umd=(59.35, 59.39),
        counted_by="cris",
    )
    yield from _row(
        *("CRIS", "CLIP ResNet-101", "mIoU", CRIS),
        refcoco=(70.47, 73.18, 66.10),
        plus=(62.27, 68.08, 53.68),
        umd=(59.87, 60.36),
        counted_by="cris",
    )
    yield from _row(
        *("CRIS", "CLIP ResNet-101", "oIoU", SAFIRE),
        refcoco=(67.35, 71.54, 62.16),
        plus=(57.94, 64.05, 48.42),
        umd=(56.56, 57.38),
    )
    yield from _row(
        *("ETRIS", "CLIP ViT-B/16", "mIoU", SURVEY, SERA),
        refcoco=(70.51, 73.51, 66.63),
        plus=(60.10, 66.89, 50.17),
        umd=(59.82, 59.91),
        google=(57.9,),
        counted_by="cris",
        note="its code, which is CRIS', computes mIoU; its text says oIoU",
    )
    yield from _row("ETRIS", "CLIP ResNet-101", "mIoU", RP_ETRIS, refcoco=(71.06, 74.11, 66.66))
    yield from _row(
        *("BarLeRIa", "CLIP", "oIoU", SURVEY),
        refcoco=(72.4, 75.9, 68.3),
        plus=(65.0, 70.8, 56.9),
        umd=(63.4, 63.8),
        note=HEADED,
    )
    yield from _lavt()
    yield from _row(
        *("DMMI", SWIN, "oIoU", SAFIRE),
        refcoco=(74.13, 77.13, 70.16),
        plus=(63.98, 69.73, 57.03),
        umd=(63.46, 64.19),
    )
    yield from _row("DMMI", SWIN, "mIoU", DMMI, umd=(66.48,))
    yield from _row(
        *("CGFormer", SWIN, "oIoU", SAFIRE),
        refcoco=(74.75, 77.30, 70.64),
        plus=(64.54, 71.00, 57.14),
        umd=(64.68, 64.09),
    )
    yield from _row(
        *("CGFormer", SWIN, "mIoU", SURVEY),
        refcoco=(76.93, 78.70, 73.32),
        plus=(68.56, 73.76, 61.72),
        umd=(67.57, 67.83),
    )
    yield from _row(
        *("ReLA", SWIN, "oIoU", SURVEY, SAFIRE),
        refcoco=(73.82, 76.48, 70.18),
        plus=(66.04, 71.02, 57.65),
        umd=(65.00, 65.97),
        counted_by="gres",
        notes={"refcoco:val": "SaFiRe's table says 73.92"},
    )
    yield from _row(
        *("MagNet", SWIN, "oIoU", SAFIRE),
        refcoco=(75.24, 78.24, 71.05),
        plus=(66.16, 71.32, 58.14),
        umd=(65.36, 66.03),
    )
    yield from _row(
        *("MagNet", SWIN, "mIoU", SURVEY),
        refcoco=(76.55, 78.27, 72.15),
        plus=(68.10, 73.64, 61.81),
        umd=(67.79, 69.29),
    )
    yield from _risclip()
    yield from _row(
        *("ReMamber", "VMamba-B + CLIP", "oIoU", SAFIRE),
        refcoco=(74.54, 76.74, 70.89),
        plus=(65.00, 70.78, 57.53),
        umd=(63.90, 64.00),
    )
    yield from _detris()
    yield from _row(
        *("SaFiRe", "Swin-B + BERT + VMamba", "oIoU", SAFIRE),
        refcoco=(75.34, 78.52, 71.35),
        plus=(66.39, 71.96, 58.47),
        umd=(67.07, 66.87),
    )
    yield from _row(
        *("SERA", "frozen, tuned by few parameters", "mIoU", SERA),
        refcoco=(76.5, 78.2, 73.7),
        plus=(70.4, 74.4, 62.8),
        umd=(68.8, 68.9),
        google=(66.6,),
    )


def _lavt() -> Iterator[Published]:
    """Yield LAVT's two tables, each with both kinds of IoU."""
    yield from _row(
        *("LAVT", SWIN, "oIoU", LAVT),
        refcoco=(72.73, 75.82, 68.79),
        plus=(62.14, 68.38, 55.10),
        umd=(61.24, 62.09),
        google=(60.50,),
        counted_by="lavt",
    )
    yield from _row(
        *("LAVT", SWIN, "mIoU", LAVT),
        refcoco=(74.46, 76.89, 70.94),
        plus=(65.81, 70.97, 59.23),
        umd=(63.34, 63.62),
        google=(63.66,),
        counted_by="lavt",
    )
    second = "the repository's second, stronger table"
    yield from _row(
        *("LAVT, second table", SWIN, "oIoU", LAVT),
        refcoco=(73.50, 75.97, 69.33),
        plus=(63.79, 69.79, 56.49),
        umd=(64.02, 64.49),
        google=(61.31,),
        counted_by="lavt",
        note=second,
    )
    yield from _row(
        *("LAVT, second table", SWIN, "mIoU", LAVT),
        refcoco=(75.41, 77.31, 71.86),
        plus=(67.65, 72.53, 61.22),
        umd=(67.41, 67.45),
        google=(64.84,),
        counted_by="lavt",
        note=second,
    )


def _risclip() -> Iterator[Published]:
    """Yield RISCLIP's numbers, as others print them."""
    yield from _row(
        *("RISCLIP-B", "CLIP ViT-B/16, frozen", "oIoU", SAFIRE),
        refcoco=(73.57, 76.46, 69.76),
        plus=(65.53, 70.61, 55.49),
        umd=(64.10, 65.09),
    )
    yield from _row(
        *("RISCLIP-B", "CLIP ViT-B/16, frozen", "mIoU", SERA, WIZWAND),
        refcoco=(75.7, 78.0, 72.5),
        plus=(69.2, 73.5, 60.7),
        umd=(67.6, 68.0),
        notes={"refcoco:testB": "derived from the mean of eight splits, 70.6, that SERA prints: within 0.8"},
    )
    yield from _row("RISCLIP-L", "CLIP ViT-L", "mIoU", REVIEW, plus=(74.38, 78.77, 66.84))


def _detris() -> Iterator[Published]:
    """Yield DETRIS in two sizes."""
    base, large = "DINOv2-B + CLIP text", "DINOv2-L + CLIP text"
    yield from _row(
        *("DETRIS-B", base, "oIoU", DETRIS),
        refcoco=(74.3, 77.6, 71.4),
        plus=(65.6, 72.0, 56.5),
        umd=(65.2, 66.4),
        google=(63.2,),
    )
    yield from _row(
        *("DETRIS-B", base, "mIoU", DETRIS),
        refcoco=(76.0, 78.2, 73.5),
        plus=(68.9, 74.0, 61.5),
        umd=(67.9, 68.1),
        google=(65.9,),
    )
    yield from _row(
        *("DETRIS-L", large, "oIoU", DETRIS),
        refcoco=(76.1, 78.3, 73.2),
        plus=(67.9, 73.3, 60.2),
        umd=(66.8, 68.0),
        google=(65.0,),
    )
    yield from _row(
        *("DETRIS-L", large, "mIoU", DETRIS),
        refcoco=(77.3, 79.0, 75.2),
        plus=(70.8, 75.3, 64.7),
        umd=(69.3, 70.2),
        google=(67.9,),
    )


def _mixed() -> Iterator[Published]:
    """Yield the systems that were trained on several sets, or on more data than them."""
    yield from _row(
        *("PolyFormer-B", SWIN, "mIoU", SURVEY),
        refcoco=(75.96, 77.09, 73.22),
        plus=(70.65, 74.51, 64.64),
        umd=(69.36, 69.88),
        trained_on="mixed",
        note="[inferred] which of its sizes it is",
    )
    yield from _row(
        *("PolyFormer-L", "Swin-L + BERT", "oIoU", SAFIRE),
        refcoco=(76.0, 78.3, 73.3),
        plus=(69.3, 74.6, 61.9),
        umd=(69.2, 70.2),
        trained_on="mixed",
    )
    yield from _row(
        *("PolyFormer-L", "Swin-L + BERT", "mIoU", EVF_SAM),
        refcoco=(76.9, 78.5, 74.8),
        plus=(72.2, 75.7, 66.7),
        umd=(71.2, 71.2),
        trained_on="mixed",
        note=LISTED,
    )
    yield from _row(
        *("DETRIS-L*", "DINOv2-L + CLIP text", "oIoU", DETRIS),
        refcoco=(80.7, 82.2, 77.9),
        plus=(73.1, 77.5, 66.0),
        umd=(73.2, 74.7),
        trained_on="mixed",
    )
    yield from _row(
        *("SaFiRe, mixed", SWIN, "oIoU", SAFIRE),
        refcoco=(81.4, 83.6, 78.2),
        plus=(74.8, 78.9, 68.3),
        umd=(75.8, 76.8),
        trained_on="mixed",
    )
    yield from _row(
        *("Prompt-RIS", "CLIP + SAM", "mIoU", SURVEY),
        refcoco=(78.10, 81.21, 74.64),
        plus=(71.13, 76.60, 64.25),
        umd=(70.47, 71.29),
        trained_on="mixed",
    )
    yield from _row(
        *("OneRef-L, fine-tuned", "BEiT-3", "mIoU", SURVEY),
        refcoco=(81.26, 83.06, 79.45),
        plus=(76.60, 80.16, 72.95),
        umd=(75.68, 76.82),
        trained_on="mixed",
    )
    yield from _large()


def _large() -> Iterator[Published]:
    """Yield the systems around a large language model or a foundation model."""
    yield from _row(
        *("LISA-7B, fine-tuned", "LLaVA + SAM", "oIoU", SURVEY, SAFIRE),
        refcoco=(74.9, 79.1, 72.3),
        plus=(65.1, 70.8, 58.1),
        umd=(67.9, 70.6),
        trained_on="mixed",
    )
    yield from _row(
        *("GLaMM-7B", "Vicuna + SAM", "oIoU", SURVEY, EVF_SAM),
        refcoco=(79.5, 83.2, 76.9),
        plus=(72.6, 78.7, 64.6),
        umd=(74.2, 74.9),
        trained_on="mixed",
    )
    yield from _row(
        *("UniLSeg-100", "CLIP text", "oIoU", EVF_SAM),
        refcoco=(81.7, 83.2, 79.9),
        plus=(73.2, 78.3, 68.2),
        trained_on="mixed",
    )
    yield from _row(
        *("PSALM", "Phi-1.5 + Swin-B Mask2Former", "oIoU", EVF_SAM),
        refcoco=(83.6, 84.7, 81.6),
        plus=(72.9, 75.5, 70.1),
        umd=(73.8, 74.4),
        trained_on="mixed",
        note=LEAK,
    )
    yield from _row(
        *("PSALM, evaluated again", "Phi-1.5 + Swin-B Mask2Former", "oIoU", SAFIRE),
        refcoco=(78.0, 78.1, 76.6),
        trained_on="mixed",
        note="evaluated again; of its first numbers say " + LEAK,
    )
    yield from _row(
        *("EVF-SAM, RefCOCO data", "BEiT-3-L + SAM-H", "oIoU", EVF_SAM),
        refcoco=(82.1, 83.7, 80.0),
        plus=(75.2, 78.3, 70.1),
        umd=(76.8, 77.4),
        trained_on="mixed",
    )
    yield from _row(
        *("EVF-SAM, more data", "BEiT-3-L + SAM-H", "oIoU", EVF_SAM),
        refcoco=(82.4, 84.2, 80.2),
        plus=(76.5, 80.0, 71.9),
        umd=(78.2, 78.3),
        trained_on="mixed",
    )
    yield from _row(
        *("MLCD-seg-7B", "", "oIoU", UNICOM),
        refcoco=(83.2, 84.6, 81.4),
        plus=(79.0, 83.0, 75.1),
        umd=(79.7, 80.9),
        trained_on="mixed",
    )
    yield from _row(
        *("Sa2VA-26B", "InternVL + SAM 2", "oIoU", SA2VA),
        refcoco=(82.5,),
        plus=(78.8,),
        umd=(79.7,),
        trained_on="mixed",
    )
    yield from _row(
        *("LENS-3B", "Qwen2.5-VL-3B + SAM 2-L", "oIoU", LENS),
        refcoco=(84.2, 85.3, 81.0),
        plus=(79.4, 82.8, 74.3),
        umd=(81.2, 81.0),
        trained_on="mixed",
    )
    yield from _row(
        *("SeGDeP-4B", "multimodal language model", "oIoU", SEGDEP),
        refcoco=(84.2, 85.7, 82.8),
        plus=(82.3, 84.7, 79.6),
        umd=(80.1, 81.9),
        trained_on="mixed",
    )
    yield from _row("X-SAM", "", "oIoU", BANANA, umd=(83.8,), trained_on="mixed")
    yield from _row(
        *("SAM 3 Agent (Gemini 2.5 Pro)", "SAM 3 + multimodal language model", "oIoU", BANANA, ULTRALYTICS),
        umd=(73.4,),
        trained_on="zero-shot",
    )
    yield from _row("Vision Banana", "image generator", "oIoU", BANANA, umd=(73.8,), trained_on="zero-shot")


PUBLISHED: tuple[Published, ...] = (*_per_set(), *_mixed())


def catalogue_name(data: str) -> str:
    """Return the catalogue's name of a data set that a result may call by that of the files it was read from."""
    return OTHER_NAMES.get(data, data)


def published(data: str, split: str, metric: Metric) -> tuple[Published, ...]:
    """Return what is published of a data set's split by one kind of IoU: per set first, each group best first."""
    order = ("per set", "mixed", "zero-shot")
    found = [row for row in PUBLISHED if (row.data, row.split, row.metric) == (catalogue_name(data), split, metric)]
    return tuple(sorted(found, key=lambda row: (order.index(row.trained_on), -row.value, row.system)))

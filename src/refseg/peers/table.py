"""The table of other people's models: what they are, whose they are, and which files of which revision they need.

Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from refseg.errors import UnknownNameError

__all__ = ["PEERS", "REFINERS", "SAM", "SAM2", "SAM3", "Part", "PeerEntry", "peer_entry", "refiner_part"]

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
BASIC = ("config.json", "preprocessor_config.json", "model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The files of one network on the Hugging Face Hub, at a revision that never changes."""

    repository: str
    revision: str
    """The commit."""
    megabytes: int
    """Of all its files."""
    licence: str
    """Of the weights, as their authors state it."""
    files: tuple[str, ...] = BASIC

    @property
    def source(self) -> str:
        """The repository and the commit."""
        return f"{self.repository}@{self.revision}"


@dataclass(frozen=True, kw_only=True)
class PeerEntry:
    """A model of other people."""

    name: str
    parts: tuple[Part, ...]
    parameters: int
    """Of all parts together, rounded."""
    summary: str
    published: str
    """Scores that its authors, or others, published; what the metric is."""
    trained_on_refcoco: bool | None
    """Whether images or expressions of RefCOCO, RefCOCO+ or RefCOCOg were trained on; None: not known.

    Only if they were not, it is zero-shot.
    """
    caution: str | None = None
    """What its user is told when it is loaded."""

    @property
    def megabytes(self) -> int:
        """The size of the files of all parts."""
        return sum(part.megabytes for part in self.parts)

    @property
    def licence(self) -> str:
        """The licences of the weights of all parts."""
        return ", ".join(dict.fromkeys(part.licence for part in self.parts))


GROUNDING_DINO = Part(
    repository="IDEA-Research/grounding-dino-tiny",
    revision="a2bb814dd30d776dcf7e30523b00659f4f141c71",
    megabytes=690,
    licence="Apache-2.0",
    files=(*BASIC, *TOKENIZER),
)
SAM = Part(
    repository="facebook/sam-vit-base",
    revision="70c1a07f894ebb5b307fd9eaaee97b9dfc16068f",
    megabytes=375,
    licence="Apache-2.0",
)
SAM2 = Part(
    repository="facebook/sam2.1-hiera-tiny",
    revision="de431c4043854a71d8101e17995dfe596bf101a5",
    megabytes=156,
    licence="Apache-2.0",
)
FLORENCE = Part(
    repository="florence-community/Florence-2-base-ft",
    revision="0b03b6f15a4a211370fb204aee4e7dd48887ea37",
    megabytes=467,
    licence="MIT",
    files=(*BASIC, *TOKENIZER, "generation_config.json"),
)
FLORENCE_LARGE = Part(
    repository="florence-community/Florence-2-large-ft",
    revision="26b734a54fdfbf9c398351eedfabb7f27fc470b7",
    megabytes=1557,
    licence="MIT",
    files=(*BASIC, *TOKENIZER, "generation_config.json"),
)
SAM3 = Part(
    repository="facebook/sam3",
    revision="3c879f39826c281e95690f02c7821c4de09afae7",
    megabytes=3444,
    licence="SAM License",
    files=("config.json", "processor_config.json", "model.safetensors", *TOKENIZER),
)
BOXES = "refcoco:val: 50.8 % of the boxes are right (IoU of 0.5 or more); none for the masks"

PEERS: MappingProxyType[str, PeerEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            PeerEntry(
                name="grounding-dino-sam",
                parts=(GROUNDING_DINO, SAM),
                parameters=266_000_000,
                summary="boxes by Grounding DINO (tiny), their masks by SAM (ViT-B); hardly reads positions",
                published=BOXES,
                trained_on_refcoco=False,
            ),
            PeerEntry(
                name="grounding-dino-sam2",
                parts=(GROUNDING_DINO, SAM2),
                parameters=211_000_000,
                summary="boxes by Grounding DINO (tiny), their masks by SAM 2.1 (tiny); hardly reads positions",
                published=BOXES,
                trained_on_refcoco=False,
            ),
            PeerEntry(
                name="florence-2",
                parts=(FLORENCE,),
                parameters=231_000_000,
                summary="Florence-2 (base, fine-tuned): reads whole expressions and writes polygons",
                published="refcoco:val: mean IoU 78.0",
                trained_on_refcoco=True,
            ),
            PeerEntry(
                name="florence-2-large",
                parts=(FLORENCE_LARGE,),
                parameters=776_000_000,
                summary="Florence-2 (large, fine-tuned): reads whole expressions and writes polygons",
                published="refcoco:val: mean IoU 80.5",
                trained_on_refcoco=True,
            ),
            PeerEntry(
                name="sam3",
                parts=(SAM3,),
                parameters=840_000_000,
                summary="SAM 3, whose owners give out the weights on request only",
                published="no score of referring expressions by itself",
                trained_on_refcoco=None,
                caution="reads noun phrases only ('red cup'), and answers with all objects that they name; words for "
                "positions and relations ('the cup on the left') are not understood",
            ),
        )
    }
)

REFINERS: MappingProxyType[str, Part] = MappingProxyType({"sam": SAM, "sam2": SAM2, "sam3": SAM3})
"""What sharpens the borders of any model's masks (`refine`)."""


def refiner_part(name: str) -> Part:
    """Return the files of a refiner.

    Raises:
        UnknownNameError: there is no such refiner.
    """
    if name not in REFINERS:
        raise UnknownNameError("refiner of masks", name, REFINERS)
    return REFINERS[name]


def peer_entry(name: str) -> PeerEntry:
    """Return the entry of a name.

    Raises:
        UnknownNameError: there is no such model.
    """
    if name not in PEERS:
        raise UnknownNameError("model of other people", name, PEERS)
    return PEERS[name]

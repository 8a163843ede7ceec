"""Shapes: generated scenes with referring expressions, for training, tests and examples without downloads."""

from pathlib import Path

from refseg.data.shapes.closeups import CloseUps
from refseg.data.shapes.dataset import EASY, SAMPLES_PER_SCENE, SHAPES, Shapes
from refseg.data.shapes.expressions import Reference
from refseg.data.shapes.render import render, thing_masks
from refseg.data.shapes.scene import Scene, Thing, generate_scene
from refseg.data.shapes.vocabulary import COLOURS, HELD_OUT, KINDS, SIZES, TEXTURES

__all__ = [
    "COLOURS",
    "EASY",
    "EXAMPLE",
    "HELD_OUT",
    "KINDS",
    "SAMPLES_PER_SCENE",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "CloseUps",
    "Reference",
    "Scene",
    "Shapes",
    "Thing",
    "generate_scene",
    "render",
    "thing_masks",
]

EXAMPLE = Path(__file__).with_name("scene.png")
"""The example image of the command line: scene 150 of `test` at twice the usual size, 640 x 480."""

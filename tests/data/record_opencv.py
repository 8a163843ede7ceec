"""Record what OpenCV makes of images, masks and maps, so that the tests need no OpenCV.

    python -m venv cv && cv/bin/pip install "opencv-python-headless==4.14.*" numpy
    cv/bin/python tests/data/record_opencv.py

Recorded with OpenCV 4.14.0 and numpy 2.4.6; 4.5.5 gives the same within 1e-6. OpenCV 5.0 does not: it no longer rounds
positions to 1/32 of a pixel. The calls are those of CRIS: letterbox and its inverse from three points in float32,
`warpAffine` bicubic with a constant border for images and maps, linear for masks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).with_name("opencv_warps.npz")
MEAN = (0.48145466, 0.4578275, 0.40821073)
# height, width, side of the square, every how many pixels are kept
CASES = [
    (1, 1, 64, 1),
    (3, 2, 64, 1),
    (37, 53, 64, 1),
    (64, 64, 64, 1),
    (128, 100, 64, 1),
    (333, 90, 97, 1),
    (90, 333, 97, 1),
    (601, 803, 128, 2),
    (480, 640, 416, 4),
    (640, 427, 416, 4),
    (10, 20000, 416, 1),
]


def image(height: int, width: int) -> np.ndarray:
    """Smooth in the left, noisy in the middle, sharp edges in the right; whole numbers, so the same everywhere."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    smooth = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=2)
    noise = np.stack(
        [(x * x * k + y * y * 13 + x * y * 3 + 40_503 * k) * 2_654_435_761 >> 13 & 255 for k in (5, 7, 9)], 2
    )
    edges = np.stack([((x // k + y // 7) % 2) * 255 for k in (5, 9, 16)], axis=2)
    third = np.broadcast_to((x * 3 // width)[..., None], smooth.shape)
    return np.choose(third, [smooth, noise, edges]).astype(np.uint8)


def region(height: int, width: int) -> np.ndarray:
    """A mask: a diagonal band and scattered pixels."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    return (abs(x * height - y * width) * 6 < height * width) | ((x * 31 + y * 17) % 41 == 0)


def probabilities(side: int) -> np.ndarray:
    """A map in 0..1, float32: the region, one corner of it softened."""
    values = region(side, side).astype(np.float32)
    values[: side // 2, : side // 2] *= image(side // 2, side // 2)[..., 0] / np.float32(255)
    return values


def sample(values: np.ndarray) -> np.ndarray:
    """Some thousand of the values, from all over."""
    return values.ravel()[:: 2 * (values.size // 8192) + 1]


def main() -> None:
    import cv2

    recorded = {}
    for height, width, side, keep in CASES:
        scale = min(side / height, side / width)
        new_height, new_width = height * scale, width * scale
        left, top = (side - new_width) / 2, (side - new_height) / 2
        there = np.array([[0, 0], [width, 0], [0, height]], np.float32)
        here = np.array([[left, top], [new_width + left, top], [left, new_height + top]], np.float32)
        border = [value * 255 for value in MEAN]
        forward, inverse = cv2.getAffineTransform(there, here), cv2.getAffineTransform(here, there)
        square = (side, side)
        name = f"{height}x{width}_{side}"
        recorded[f"{name}_image"] = cv2.warpAffine(
            image(height, width), forward, square, flags=cv2.INTER_CUBIC, borderValue=border
        )[::keep, ::keep]
        recorded[f"{name}_mask"] = cv2.warpAffine(
            region(height, width).astype(np.uint8) * 255, forward, square, flags=cv2.INTER_LINEAR, borderValue=0.0
        )[::keep, ::keep]
        restored = cv2.warpAffine(probabilities(side), inverse, (width, height), flags=cv2.INTER_CUBIC, borderValue=0.0)
        recorded[f"{name}_map"] = sample(restored)
    np.savez_compressed(OUTPUT, **recorded)


if __name__ == "__main__":
    main()

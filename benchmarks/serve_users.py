"""What each client of `serve_load.py` does, for locust: it sends images with expressions, and compares the answers.

The environment variable SERVE_LOAD names a JSON file with `questions`, each with `image` (in base64), `expressions` and
the `masks` that the model answers without a server; and `once`, whether no two images have the same bytes.
"""

from __future__ import annotations

import json
import os
import random
from base64 import b64decode
from pathlib import Path
from typing import Any

from locust import FastHttpUser, task
from pycocotools import mask as coco

LOAD = json.loads(Path(os.environ["SERVE_LOAD"]).read_text(encoding="utf-8"))
QUESTIONS = [
    (
        b64decode(one["image"]),
        "&".join(f"expression={text.replace(' ', '+')}" for text in one["expressions"]),
        one["masks"],
    )
    for one in LOAD["questions"]
]
HEADERS = {"Content-Type": "image/jpeg"}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two masks are the same but for single pixels: images computed together are rounded otherwise."""
    return one == other or coco.iou([one], [other], [False])[0][0] > 0.995


class Asking(FastHttpUser):
    """Asks one question after the other."""

    @task
    def ask(self) -> None:
        image, query, masks = random.choice(QUESTIONS)
        if LOAD["once"]:
            # Bytes after the end of a JPEG are not read: the image is the same, and the server does not know it yet.
            image += random.randbytes(16)
        with self.client.post(
            f"/v1/segment?{query}", data=image, headers=HEADERS, name="/v1/segment", catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
            elif not all(map(same, [one["mask"] for one in response.json()["predictions"]], masks)):
                response.failure("another answer than the model's own")

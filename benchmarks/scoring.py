"""Scores of a network on examples, and what a result file says of how it came about."""

import datetime as dt
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measuring
from keras_fsa.files import whole_file
from keras_fsa.metrics import boundary_scores, confusion_matrix, confusion_scores, nan_mean

BOUNDARY = 3.0
"""Tolerance of boundary scores in pixels."""


def score(predict: Callable, examples: Iterable, class_names: Sequence[str]) -> dict[str, Any]:
    """IoU and boundary F1 of each class, and their means.

    Args:
        predict: a function from an image `(H, W, channels)` to class ids `(H, W)`.
        examples: pairs of image and mask.
        class_names: names of the classes.
    """
    n = len(class_names)
    confusion, boundaries, images = np.zeros((n, n), "int64"), [], 0
    for image, mask in examples:
        ids = predict(image)
        confusion += confusion_matrix(mask, ids, n)
        boundaries.append(boundary_scores(mask, ids, n, BOUNDARY))
        images += 1
    scores, boundary = confusion_scores(confusion), nan_mean(boundaries, axis=0)
    return {
        "mean_iou": number(scores["mean_iou"]),
        "mean_boundary_f": number(nan_mean(boundary)),
        "pixel_accuracy": number(scores["pixel_accuracy"]),
        "classes": {
            name: {"iou": number(iou), "boundary_f": number(f)}
            for name, iou, f in zip(class_names, scores["class_iou"], boundary, strict=True)
        },
        "images": images,
    }


def number(value: Any) -> float | None:
    """A float for a JSON file, which has no NaN."""
    return None if value is None or np.isnan(value) else float(value)


def circumstances(command: str) -> dict[str, Any]:
    """Date, command, versions, device and threads of a measurement."""
    kind, name = measuring.device()
    packages = ("keras", "numpy", measuring.BACKEND)
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": command,
        "backend": measuring.BACKEND,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "device": {"kind": kind, "name": name},
        "threads": measuring.threads(),
    }


def write(path: Path, result: dict) -> None:
    """Write a result file whole."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(result, indent=1) + "\n")
    print(f"Written to {path}", flush=True)

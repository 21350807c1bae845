"""Looks through a dataset, example by example, for what would spoil an expensive training."""

import dataclasses
import sys

import keras
import numpy as np

from keras_fsa import _deprecation
from keras_fsa.arguments import boolean, one_of, positive_int
from keras_fsa.classes import ACTIVATIONS, by_class
from keras_fsa.datasets.examples import Examples, in_order
from keras_fsa.metrics import IGNORE_LABEL

NOTHING_COUNTS = "every pixel of the mask is ignored"
"""A problem, though not one that ends a training."""


@dataclasses.dataclass
class Findings:
    """What `check` found. Pixels and images are those of the examples without a problem.

    Attributes:
        pixels: int64 `(num_classes,)`, pixels of each class.
        counted: int64 `(num_classes,)`, pixels that are not ignored; with the softmax the same
            number for each class.
        around: int64 `(num_classes,)`, of these the pixels in images that have the class.
        images: int64 `(num_classes,)`, images that have the class.
        total: number of all pixels.
        sizes: how many images are of a `(height, width)`.
        problems: what is wrong, in words.
    """

    pixels: np.ndarray
    counted: np.ndarray
    around: np.ndarray
    images: np.ndarray
    total: int = 0
    sizes: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)


@_deprecation.renamed_arguments(dataset="examples")
def check(
    examples: Examples,
    num_classes: int,
    expected: int | None = None,
    fail_fast: bool = False,
    activation: str = "softmax",
) -> Findings:
    """Read every example once, count its pixels, and gather what is wrong.

    Problems are: a number of examples other than the expected one, an example that cannot be read
    (a broken file, sizes of image and mask that differ, ids that are no label), and a mask of
    which every pixel is ignored. On a terminal a progress bar shows for more than 200 examples.

    Args:
        examples: what `load` or `folder_dataset` (with `check=False`) returned.
        num_classes: number of classes.
        expected: number of examples there should be; None for any.
        fail_fast: whether to stop after the first problem.
        activation: `"softmax"`, for masks of ids; or `"sigmoid"`, for 0 and 1 for each class, see
            `keras_fsa.classes`.

    Raises:
        ValueError: if an argument is out of its range.
    """
    positive_int("num_classes", num_classes)
    boolean("fail_fast", fail_fast)
    one_of("activation", activation, ACTIVATIONS)
    found = Findings(*np.zeros((4, num_classes), "int64"))
    if expected is not None and len(examples) != expected:
        found.problems.append(f"{len(examples)} examples, where {expected} are published")

    def read(index):
        try:
            _, mask = examples[index]
            pixels, counted = count_pixels(mask, num_classes, activation)
            if not counted.any():
                raise ValueError(NOTHING_COUNTS)
        except Exception as error:  # decoders raise errors of many kinds
            reason = str(getattr(error, "reason", error))
            name, words = examples.name(index), " ".join(reason.split())[:300]
            return words if words.startswith(f"{name}:") else f"{name}: {words}"
        return mask.shape[:2], pixels, counted

    if fail_fast and found.problems:
        return found
    long = len(examples) > 200 and sys.stdout.isatty()
    bar = keras.utils.Progbar(len(examples), verbose=long, interval=0.5, unit_name="example")
    for one in in_order(read, range(len(examples))):
        bar.add(1)
        if isinstance(one, str):
            found.problems.append(one)
            if fail_fast:
                break
            continue
        size, pixels, counted = one
        found.sizes[size] = found.sizes.get(size, 0) + 1
        found.total += size[0] * size[1]
        found.pixels += pixels
        found.counted += counted
        found.around += np.where(pixels > 0, counted, 0)
        found.images += pixels > 0
    return found


def count_pixels(
    mask: np.ndarray, num_classes: int, activation: str
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of each class in a mask, and those that count for each; int64 `(num_classes,)`.

    Raises:
        ValueError: for ids that are no label.
    """
    if activation == "softmax":
        # Ids are counted much faster than they are compared.
        ids = np.bincount(mask.ravel(), minlength=256)
        wrong, limit = np.flatnonzero(ids[num_classes:IGNORE_LABEL]) + num_classes, num_classes
        counted = np.full(num_classes, ids[:num_classes].sum())
        pixels = ids[:num_classes]
    else:
        ids = np.stack(
            [np.bincount(part.ravel(), minlength=256) for part in by_class(mask, num_classes).T]
        )
        wrong, limit = np.flatnonzero(ids[:, 2:IGNORE_LABEL].any(0)) + 2, 2
        counted = ids[:, :2].sum(1)
        pixels = ids[:, 1]
    if len(wrong):
        raise ValueError(f"ids beyond 0 to {limit - 1}: {', '.join(map(str, wrong[:5]))}")
    return pixels, counted


def balanced_weights(found: Findings) -> list[float]:
    """Class weights that make up for how rare a class is: median frequency balancing.

        weight[c] = median(frequency) / frequency[c]
        frequency[c] = pixels of c / pixels, ignored ones left out, of the images that have c

    over the classes that occur; the weight of one that does not is 1, and never used.

    Source: Eigen and Fergus, arXiv:1411.4734; for streets SegNet, arXiv:1511.00561.
    """
    there = found.pixels > 0
    if not there.any():
        return [1.0] * len(there)
    frequency = found.pixels / np.maximum(found.around, 1)
    median = float(np.median(frequency[there]))
    weights = np.where(there, median / np.where(there, frequency, 1), 1.0)
    return [float(f"{weight:.4g}") for weight in weights]

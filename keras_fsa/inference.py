"""Predict the class of every pixel with a trained model, as benchmarks do.

An image passes through the model whole or in windows, at one or several scales, mirrored or not:
`keras_fsa.views` has the formula, which runs here in NumPy around any model.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_fsa._deprecation import renamed_arguments
from keras_fsa.arguments import one_of, positive_int, positive_ints
from keras_fsa.classes import ACTIVATIONS, activation_of, decide
from keras_fsa.compilation import model_in_use
from keras_fsa.views import Views, mean_probabilities

__all__ = ["class_map", "probabilities"]

# Rows of a map that are worked on at a time, so that temporary arrays stay small.
_STRIP = 64
# Of a resized image or a result: 16384 x 16384. Beyond it is a mistyped number.
_MOST_PIXELS = 2**28


@renamed_arguments(pictures="images")
def probabilities(
    model: keras.Model | Callable,
    images: np.ndarray,
    size: tuple[int, int] | None = None,
    fit: tuple[int, int] | None = None,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    align_corners: bool | None = None,
    blend: str = "mean",
    activation: str | None = None,
) -> np.ndarray:
    """Probabilities of the classes at every pixel.

    Args:
        model: a `keras.Model` from images to logits of their size, such as `FsaNet`; or any
            function of NumPy arrays that does the same.
        images: `(H, W, channels)` or `(B, H, W, channels)`, 0 to 255, uint8 or floating. The model
            receives float32.
        size: `(height, width)` of the result. Default: that of the images.
        fit: `(long, short)` in pixels: the images are first resized, with their aspect ratio kept,
            to the largest size whose longer side is at most `long` and whose shorter side is at
            most `short`. ADE20K and VOC are evaluated with (2048, 512). Default: no resizing.
        window: side of a square sliding window in pixels, or `(height, width)`. Default: the whole
            image at once. If an image is smaller, so is the window.
        stride: step from one window to the next, an int or a pair, at most the window. Default: two
            thirds of the window. The last window of a row or column is moved back into the image,
            not cut off. The paper's Cityscapes setting is window=769, stride=513.
        scales: factors to resize the images by, after `fit`. Probabilities are averaged.
        flip: whether to average each scale with its left-right mirror image.
        align_corners: for resizing logits from one size of the image to another, see
            `resize_bilinear`. Default: the model's own attribute, or False if that is None.
        blend: how overlapping windows are weighted: `"mean"` (equally, as benchmarks do), `"hann"`
            or `"gaussian"` (less towards a window's border, so that no seams remain), see
            `keras_fsa.views`.
        activation: `"softmax"` or `"sigmoid"`, see `keras_fsa.classes`. Default: the model's own
            attribute, else `"softmax"`.

    Returns:
        float32 `(H, W, num_classes)`, or `(B, H, W, num_classes)` for a batch.

    For serving, several threads may call this at once: they take turns at a Keras model, whose
    engine uses all cores by itself, and run in parallel otherwise. Threads may also share what
    `load_exported` returns; any other function must be thread-safe.

    Memory: besides what the model needs for a window, one float32 array of the result's shape, a
    second one if there are several views, and the window's logits.

    Raises:
        ValueError: for a wrong argument, images that are empty or not finite, and logits whose
            softmax is undefined (NaN, infinity), which would otherwise count as class 0.
    """
    if not callable(model):
        raise ValueError(
            "`model` must be a Keras model or a function from images to logits. Received: model="
            f"{model!r}. Load the file first, with keras.saving.load_model or "
            "keras_fsa.models.exporting.load_exported."
        )
    one_of("activation", activation, (*ACTIVATIONS, None))
    activation = activation or activation_of(model)
    images = _checked_images(images)
    if images.ndim == 3:
        settings = (size, fit, window, stride, scales, flip, align_corners, blend)
        return probabilities(model, images[None], *settings, activation)[0]
    if align_corners is None:
        align_corners = bool(getattr(model, "align_corners", False))
    views = Views(window, stride, scales, flip, fit, blend, align_corners)
    positive_ints("size", size, 2, optional=True)
    if size is not None:
        _NumPy.check_size("size", size)
    forward = _one_at_a_time(model) if isinstance(model, keras.Model) else model
    return mean_probabilities(_NumPy, _checked(forward), images, size, views, activation)


@renamed_arguments(pictures="images")
def class_map(
    model: keras.Model | Callable, images: np.ndarray, threshold: float = 0.5, **settings: Any
) -> np.ndarray:
    """The most probable class of every pixel: uint8 `(H, W)` or `(B, H, W)`.

    From 256 classes on, uint16.

    With the sigmoid, 1 where the probability of a class is at least `threshold`, else 0: `(H, W,
    num_classes)`, or `(H, W)` for one class; with a first axis for a batch.

    Args and Raises as in `probabilities`.
    """
    result = probabilities(model, images, **settings)
    return decide(result, settings.get("activation") or activation_of(model), threshold)


def batches_by_size(examples: Iterable[tuple], batch: int, limit: int = 64) -> Iterator[list]:
    """Group a stream of examples into batches of images of one size, without padding.

    Args:
        examples: iterable of tuples whose first item is an image `(H, W, channels)`.
        batch: number of examples in a batch.
        limit: how many examples may wait for others of their size.

    Yields:
        Lists of `batch` examples whose images have one size, and lists of one: when the stream ends
        or too many examples wait, they are returned singly. Each size thus has at most two shapes,
        for each of which JAX compiles once.

    Raises:
        ValueError: for a batch or a limit that is not a positive int.
    """
    positive_int("batch", batch)
    positive_int("limit", limit)
    waiting: dict[tuple[int, ...], list[tuple]] = {}
    for example in examples:
        group = waiting.setdefault(np.shape(example[0]), [])
        group.append(example)
        if len(group) == batch:
            yield waiting.pop(np.shape(example[0]))
        elif sum(map(len, waiting.values())) > limit:
            # The oldest size goes first: dicts keep their order.
            for lonely in waiting.pop(next(iter(waiting))):
                yield [lonely]
    for group in waiting.values():
        for lonely in group:
            yield [lonely]


class _NumPy:
    """The engine of `keras_fsa.views` that works in place, a few rows at a time."""

    range, sum, take, where = np.arange, np.sum, np.take, np.where
    minimum, maximum, clip, floor = np.minimum, np.maximum, np.clip, np.floor
    sin, exp, ones, float64, count = np.sin, np.exp, np.ones, np.float64, np.count_nonzero

    @staticmethod
    def size(images):
        return images.shape[1:3]

    @staticmethod
    def integer(x):
        return np.asarray(x).astype("int64")[()]

    @staticmethod
    def float32(x):
        return np.asarray(x, "float32")

    @staticmethod
    def check_size(name, size):
        if np.prod(np.asarray(size, "float64")) > _MOST_PIXELS:
            raise ValueError(
                f"`{name}` must leave an image of at most {_MOST_PIXELS} pixels. Received: "
                f"{name} that gives {size[0]} x {size[1]}. Choose smaller `size`, `scales` or "
                "`fit`."
            )

    @staticmethod
    def zeros(images, size):
        return np.zeros((len(images), *size, images.shape[-1]), "float32")

    @classmethod
    def fold(cls, add_window, rows, columns, images):
        total = None
        for top in rows.starts:
            for left in columns.starts:
                total = add_window(total, top, left)
        return total

    @classmethod
    def add(cls, total, x, rows, top, columns, left):
        """Add a window `(B, h, w, C)`, resized and weighted, to its part of the total."""
        if total is None:
            total = cls.zeros(x, (rows.new_size, columns.new_size))
        (first, stop, row_taps), (start, end, column_taps) = rows.part(top), columns.part(left)
        row_taps, column_taps = (
            [(index, weight) for index, weight in taps if weight.any()]
            for taps in (row_taps, column_taps)
        )
        if not (row_taps and column_taps):  # it is beside the few places that the result shows
            return total
        for low in range(0, stop - first, _STRIP):
            strip = slice(low, min(low + _STRIP, stop - first))
            lines = _combine(x, [(i[strip], w[strip, None, None]) for i, w in row_taps], axis=1)
            lines = _combine(lines, [(i, w[:, None]) for i, w in column_taps], axis=2)
            total[:, first + strip.start : first + strip.stop, start:end] += lines
        return total

    @staticmethod
    def softmax(logits):
        for first in range(0, logits.shape[1], _STRIP):
            strip = logits[:, first : first + _STRIP]
            with np.errstate(invalid="ignore"):
                strip -= strip.max(axis=-1, keepdims=True)
            np.exp(strip, out=strip)
            strip /= strip.sum(axis=-1, keepdims=True)
            # Sums of NaN are NaN.
            if not np.isfinite(strip.sum()):
                raise ValueError(
                    "`model` must give logits of which each pixel has a finite largest one. "
                    "Received: NaN or infinite logits. Look for NaN in the model's weights, for "
                    "images beyond 0 to 255, and for overflow in half precision."
                )
        return logits

    @staticmethod
    def sigmoid(logits):
        for first in range(0, logits.shape[1], _STRIP):
            strip = logits[:, first : first + _STRIP]
            with np.errstate(over="ignore"):
                np.exp(-strip, out=strip)
            strip += 1
            np.reciprocal(strip, out=strip)
            if np.isnan(strip.sum()):
                raise ValueError(
                    "`model` must give logits that are numbers. Received: NaN. Look for NaN in the "
                    "model's weights, for images beyond 0 to 255, and for overflow in half "
                    "precision."
                )
        return logits


def _combine(x, taps, axis):
    return sum(x.take(index, axis) * weight for index, weight in taps)


def _one_at_a_time(model):
    def run(images):
        with model_in_use:
            return model.predict_on_batch(images)

    return run


def _checked(forward):
    """The model, with a check that its output is logits of the size of its images."""

    def run(images):
        logits = np.asarray(forward(images))
        height, width = images.shape[1:3]
        right = logits.ndim == 4 and logits.shape[:3] == images.shape[:3] and logits.shape[-1]
        # Answers to several classes have the shape of logits.
        if not right or logits.dtype.kind in "bui":
            raise ValueError(
                "`model` must give logits (B, H, W, num_classes) of the size of its images. "
                f"Received: an output of shape {logits.shape} and dtype {logits.dtype} for images "
                f"of {height} x {width}. Classes cannot be averaged: export the file with logits."
            )
        return logits

    return run


def _checked_images(images):
    if isinstance(images, (str, os.PathLike)):
        raise ValueError(
            f"`images` must be an array. Received: images={images!r}. Read the file, with "
            "keras_fsa.images.read_image."
        )
    try:
        images = np.asarray(images)
    except ValueError:
        raise ValueError(
            "`images` must be of one size. Received: a list that makes no batch. Give one image at "
            "a time."
        ) from None
    if images.ndim not in (3, 4):
        raise ValueError(
            "`images` must be (H, W, channels) or (B, H, W, channels). Received: images of shape "
            f"{images.shape}. Add or remove axes."
        )
    if not images.size:
        raise ValueError(
            "`images` must hold at least one image of at least one pixel. Received: images of "
            f"shape {images.shape}. Leave out empty ones."
        )
    # NaN is in every minimum, so no array of the images' size is needed to find one.
    if images.dtype.kind not in "buif" or not np.isfinite([images.min(), images.max()]).all():
        raise ValueError(
            "`images` must be finite numbers. Received: images of dtype "
            f"{images.dtype}{' with NaN or infinity' * (images.dtype.kind == 'f')}. Replace what "
            "is not a number; a model would answer with class 0."
        )
    return images

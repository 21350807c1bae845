"""From a trained model to the class of every pixel, as benchmarks do it.

A picture passes the model whole or in windows, at one or several scales, mirrored or not. Windows
average logits, scales and mirror images average probabilities.

Nothing is padded, ever: the frequency transform sees the whole map it is given, so that pixels that
are not part of the picture would change the answer everywhere.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_fsa.arguments import positive_int
from keras_fsa.resize import positions

# Rows of a map that are worked on at a time: what is not kept stays small.
_STRIP = 64


def probabilities(
    model: keras.Model | Callable,
    pictures: np.ndarray,
    size: tuple[int, int] | None = None,
    fit: tuple[int, int] | None = None,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    align_corners: bool | None = None,
) -> np.ndarray:
    """Probabilities of the classes at every pixel.

    Args:
        model: a `keras.Model` from pictures to logits of their size, such as `FsaNet`; or any
            function of NumPy arrays that does the same.
        pictures: `(H, W, channels)` or `(B, H, W, channels)`, 0 to 255, uint8 or floating. The
            model is given float32.
        size: `(height, width)` of the result. Default: that of the pictures.
        fit: `(long, short)` in pixels: the pictures are first resized, their shape kept, to the
            largest size whose longer side is at most `long` and whose shorter side is at most
            `short`. ADE20K and VOC are evaluated with (2048, 512). Default: as they are.
        window: side of a square sliding window in pixels, or `(height, width)`. Default: the whole
            picture passes at once. Where a picture is smaller, the window is as small.
        stride: step from window to window, an int or a pair, at most the window. Default: two
            thirds of the window. The last window of a row or column is moved back into the picture,
            not cut. The paper's Cityscapes setting is window=769, stride=513.
        scales: factors to resize the pictures by, beyond `fit`. Probabilities are averaged.
        flip: whether each scale is averaged with its mirror image, left for right.
        align_corners: of the resizing of logits, see `resize_bilinear`. Default: the model's own
            attribute, else False.

    Returns:
        float32 `(H, W, num_classes)`, or `(B, H, W, num_classes)` for a batch.

    Memory: beside what the model takes for a window, one float32 array of the result's shape, a
    second one where there are several views, and the window's logits. Windows are resized before
    they are added up (both are linear), so a large scale needs no large array.

    Raises:
        ValueError: for a wrong argument.
    """
    pictures = np.asarray(pictures)
    if pictures.ndim == 3:
        batch = probabilities(
            model, pictures[None], size, fit, window, stride, scales, flip, align_corners
        )
        return batch[0]
    if pictures.ndim != 4:
        raise ValueError(
            "`pictures` must be (H, W, channels) or (B, H, W, channels). Received: pictures of "
            f"shape {pictures.shape}. Add or remove axes."
        )
    check_scales(scales)
    check_fit(fit)
    windows, strides = window_and_stride(window, stride)
    if align_corners is None:
        align_corners = getattr(model, "align_corners", False)
    forward = model.predict_on_batch if isinstance(model, keras.Model) else model
    height, width = pictures.shape[1:3]
    size = (height, width) if size is None else tuple(size)
    factor = _fit_factor(fit, height, width)

    total = None
    for scale in scales:
        # Rounding as in mmsegmentation, so that sizes are those of the published figures.
        scaled = [max(1, int(n * factor * scale + 0.5)) for n in (height, width)]
        view = _resize(pictures, scaled)
        for mirrored in (False, True) if flip else (False,):
            seen = view[:, :, ::-1] if mirrored else view
            result = _softmax(_logits(forward, seen, size, windows, strides, align_corners))
            result = result[:, :, ::-1] if mirrored else result
            total = result if total is None else np.add(total, result, out=total)
    views = len(scales) * (1 + flip)
    return total if views == 1 else np.divide(total, views, out=total)


def class_map(model: keras.Model | Callable, pictures: np.ndarray, **settings: Any) -> np.ndarray:
    """The most probable class of every pixel: uint8 `(H, W)` or `(B, H, W)`.

    Args and Raises as in `probabilities`.
    """
    result = probabilities(model, pictures, **settings)
    strips = range(0, result.shape[-3], _STRIP)
    parts = [result[..., i : i + _STRIP, :, :].argmax(-1).astype("uint8") for i in strips]
    return np.concatenate(parts, axis=-2)


def batches_by_size(examples: Iterable[tuple], batch: int, limit: int = 64) -> Iterator[list]:
    """Group a stream of examples into batches of pictures of one size, without padding.

    Args:
        examples: iterable of tuples whose first item is a picture `(H, W, channels)`.
        batch: number of examples of a batch.
        limit: how many examples may wait for others of their size.

    Yields:
        Lists of `batch` examples whose pictures have one size, and lists of one: where the stream
        ends or too many wait, examples go alone. Each size is thus seen in two shapes at most,
        which is how often JAX compiles for it.
    """
    positive_int("batch", batch)
    waiting = {}
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


def _logits(forward, pictures, size, window, stride, align_corners):
    """Logits `(B, *size, num_classes)`: the mean over windows, resized."""
    axes = [
        _parts(*arguments, align_corners)
        for arguments in zip(pictures.shape[1:3], size, window, stride, strict=True)
    ]
    total = None
    for (top, bottom), rows in axes[0]:
        for (left, right), columns in axes[1]:
            logits = np.asarray(forward(pictures[:, top:bottom, left:right]))
            if logits.ndim != 4 or logits.shape[1:3] != (bottom - top, right - left):
                raise ValueError(
                    "`model` must give logits (B, H, W, num_classes) of the size of its pictures. "
                    f"Received: an output of shape {logits.shape} for pictures of "
                    f"{bottom - top} x {right - left}. Classes cannot be averaged: export the file "
                    "with logits."
                )
            if total is None:
                total = np.zeros((len(pictures), *size, logits.shape[-1]), "float32")
            _add_resized(total, logits, rows, columns)
    return total


def _spans(size, window, stride):
    """`(start, stop)` of the windows on one axis; the last one ends with the picture."""
    if window is None or window >= size:
        return [(0, size)]
    count = -(-(size - window) // stride) + 1
    starts = [min(i * stride, size - window) for i in range(count)]
    return [(start, start + window) for start in starts]


def _parts(size, new_size, window, stride, align_corners):
    """The windows on one axis, and how each is resized to its part of the result.

    Returns:
        A list of `((start, stop), (outputs, taps))`. `outputs` is the slice of the result that the
        window adds to, `taps` a list of `(index, weight)`: each output is the sum over the taps of
        `weight` times the window's entry at `index`. The weights are those of bilinear resizing,
        divided by the number of windows that cover the entry.
    """
    spans = _spans(size, window, stride)
    cover = np.zeros(size)
    for start, stop in spans:
        cover[start:stop] += 1
    position = positions(size, new_size, align_corners)
    lower = np.floor(position).astype(int)
    upper = np.minimum(lower + 1, size - 1)
    fraction = position - lower
    parts = []
    for start, stop in spans:
        touched = np.flatnonzero((upper >= start) & (lower < stop))
        outputs = slice(touched[0], touched[-1] + 1) if len(touched) else slice(0, 0)
        taps = []
        for index, weight in ((lower, 1 - fraction), (upper, fraction)):
            index, weight = index[outputs], (weight / cover[index])[outputs]
            weight = np.where((index >= start) & (index < stop), weight, 0)
            if weight.any():
                index = np.clip(index - start, 0, stop - start - 1)
                taps.append((index, weight.astype("float32")))
        parts.append(((start, stop), (outputs, taps)))
    return parts


def _add_resized(total, x, rows, columns):
    """Add a window `(B, h, w, C)`, resized, to its part of the total."""
    (row_slice, row_taps), (column_slice, column_taps) = rows, columns
    for first in range(0, row_slice.stop - row_slice.start, _STRIP):
        strip = slice(first, min(first + _STRIP, row_slice.stop - row_slice.start))
        lines = _combine(x, [(i[strip], w[strip, None, None]) for i, w in row_taps], axis=1)
        lines = _combine(lines, [(i, w[:, None]) for i, w in column_taps], axis=2)
        total[:, row_slice.start + strip.start : row_slice.start + strip.stop, column_slice] += (
            lines
        )


def _combine(x, taps, axis):
    return sum(x.take(index, axis) * weight for index, weight in taps)


def _resize(pictures, size):
    """Pictures as float32 at another size; bilinear without antialiasing, corners not aligned."""
    if tuple(size) == pictures.shape[1:3]:
        return pictures.astype("float32")
    result = np.zeros((len(pictures), *size, pictures.shape[-1]), "float32")
    (_, rows), (_, columns) = (
        _parts(n, m, None, None, False)[0] for n, m in zip(pictures.shape[1:3], size, strict=True)
    )
    _add_resized(result, pictures, rows, columns)
    return result


def _softmax(logits):
    """In place, a few rows at a time."""
    for first in range(0, logits.shape[1], _STRIP):
        strip = logits[:, first : first + _STRIP]
        strip -= strip.max(axis=-1, keepdims=True)
        np.exp(strip, out=strip)
        strip /= strip.sum(axis=-1, keepdims=True)
    return logits


def _pair(name, value):
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(
            f"`{name}` must be one number or two. Received: {name}={value!r}. Write "
            f"{name}=(height, width)."
        )
    for item in pair:
        positive_int(name, item)
    return pair


def window_and_stride(
    window: int | tuple[int, int] | None, stride: int | tuple[int, int] | None
) -> tuple[tuple, tuple]:
    """Heights and widths of window and stride, checked; None for no window."""
    if window is None:
        if stride is not None:
            raise ValueError(
                "`stride` needs a `window`. Received: window=None, "
                f"stride={stride!r}. Pass both, or neither for the whole picture at once."
            )
        return (None, None), (None, None)
    window = _pair("window", window)
    stride = tuple(-(-2 * w // 3) for w in window) if stride is None else _pair("stride", stride)
    if any(s > w for s, w in zip(stride, window, strict=True)):
        raise ValueError(
            "`stride` must be at most `window`, or pixels between windows would have no logits. "
            f"Received: window={window}, stride={stride}. Take a smaller stride."
        )
    return window, stride


def check_scales(scales: Sequence[float]) -> None:
    """Raise a `ValueError` where scales are none, or not positive."""
    if not len(scales) or any(not scale > 0 for scale in scales):
        raise ValueError(
            f"`scales` must be one or more positive numbers. Received: scales={scales!r}. "
            "Write (1.0,) for the pictures as they are."
        )


def check_fit(fit: tuple[int, int] | None) -> None:
    """Raise a `ValueError` where `fit` is not None or (long, short)."""
    if fit is None:
        return
    long, short = _pair("fit", fit)
    if short > long:
        raise ValueError(
            "`fit` must be (long, short), the longer side first. "
            f"Received: fit={fit!r}. Write fit=({short}, {long})."
        )


def _fit_factor(fit, height, width):
    if fit is None:
        return 1.0
    long, short = fit
    return min(long / max(height, width), short / min(height, width))

"""How a model looks at an image: at scales, mirrored, in windows, and how the answers are combined.

    p = mean over views of  mirror( activation( resize( L ) ) )

    L[i, j] = sum over windows w of  g(i - top_w) g(j - left_w) logits_w[i - top_w, j - left_w]
              / sum over windows w of  g(i - top_w) g(j - left_w)

A view is the image at one scale, mirrored or not; the activation is the softmax or the sigmoid, see
`keras_fsa.classes`; `L` are its logits, a weighted mean over the
windows that cover a pixel. The profile `g` along the `n` pixels of a window is

| blend | g(i) |
| --- | --- |
| `"mean"` | 1 |
| `"hann"` | `sin(pi (i + 1/2) / n) ** 2` |
| `"gaussian"` | `exp(-((i + 1/2 - n/2) / (n/8)) ** 2 / 2)` |

so that with `"hann"` and `"gaussian"` the borders of a window, which know least of their
surroundings, count least, and no seam is left where a window ends. Where all windows agree, the
result is theirs, whatever the profile.

Nothing is ever padded: the frequency transform sees the whole map it is given, so pixels that are
not part of the image would change the answer everywhere.

The formulas stand here once. Two engines run them: NumPy around any model (`keras_fsa.inference`),
and TensorFlow, for any size, in the graph of an exported file (`keras_fsa.segmenter`). An engine is
a namespace of a few functions of arrays; all windows are resized before they are added up (both
are linear), so a large scale needs no large array of logits.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from keras_fsa.arguments import boolean, number, one_of, positive_int

BLENDS = ("mean", "hann", "gaussian")


@dataclasses.dataclass(frozen=True)
class Views:
    """The settings of `keras_fsa.inference.probabilities`, checked.

    Raises:
        ValueError: for a wrong one.
    """

    window: int | tuple[int, int] | None = None
    stride: int | tuple[int, int] | None = None
    scales: Sequence[float] = (1.0,)
    flip: bool = False
    fit: tuple[int, int] | None = None
    blend: str = "mean"
    align_corners: bool = False

    def __post_init__(self) -> None:
        self.windows_and_strides()
        if not isinstance(self.scales, (tuple, list)) or not len(self.scales):
            raise ValueError(
                "`scales` must be a sequence of one or more positive numbers. Received: scales="
                f"{self.scales!r}. Write (1.0,) for the images as they are."
            )
        for scale in self.scales:
            number("scales", scale, above=0)
        boolean("flip", self.flip)
        one_of("blend", self.blend, BLENDS)
        boolean("align_corners", self.align_corners)
        if self.fit is None:
            return
        long, short = _pair("fit", self.fit)
        if short > long:
            raise ValueError(
                "`fit` must be (long, short), the longer side first. "
                f"Received: fit={self.fit!r}. Write fit=({short}, {long})."
            )

    def windows_and_strides(self) -> tuple[tuple, tuple]:
        """Window and stride, each for height and width; None for no window."""
        if self.window is None:
            if self.stride is not None:
                raise ValueError(
                    "`stride` needs a `window`. Received: window=None, "
                    f"stride={self.stride!r}. Pass both, or neither for the whole image at once."
                )
            return (None, None), (None, None)
        window = _pair("window", self.window)
        if self.stride is None:
            return window, tuple(-(-2 * side // 3) for side in window)
        stride = _pair("stride", self.stride)
        if any(s > w for s, w in zip(stride, window, strict=True)):
            raise ValueError(
                "`stride` must be at most `window`, or pixels between windows would have no logits."
                f" Received: window={window}, stride={stride}. Choose a smaller stride."
            )
        return window, stride


def mean_probabilities(
    engine: Any,
    forward: Callable,
    images: Any,
    size: Sequence | None,
    views: Views,
    activation: str = "softmax",
) -> Any:
    """Probabilities of the classes at every pixel: the formula of this file.

    Args:
        engine: the functions of arrays to compute with.
        forward: from images `(B, h, w, channels)` to logits `(B, h, w, num_classes)`.
        images: `(B, H, W, channels)`.
        size: height and width of the result; None for that of the images.
        views: the settings.
        activation: `"softmax"` or `"sigmoid"`.

    Returns:
        float32 `(B, *size, num_classes)`.
    """
    original = engine.size(images)
    size = original if size is None else size
    factor = 1.0
    if views.fit is not None:
        long, short = views.fit if isinstance(views.fit, (tuple, list)) else 2 * (views.fit,)
        height, width = map(engine.float64, original)
        factor = engine.minimum(
            long / engine.maximum(height, width), short / engine.minimum(height, width)
        )
    windows, strides = views.windows_and_strides()
    total: Any = None
    for scale in views.scales:
        scaled = original
        if views.fit is not None or scale != 1:
            # Rounded as in mmsegmentation, so that sizes are those of the published figures.
            scaled = [
                engine.maximum(1, engine.integer(engine.float64(n) * factor * scale + 0.5))
                for n in original
            ]
            engine.check_size("scales", scaled)
        seen = _resized(engine, images, original, scaled)
        axes = [
            _Axis(engine, *arguments, views.blend, views.align_corners)
            for arguments in zip(scaled, size, windows, strides, strict=True)
        ]
        for mirrored in (False, True) if views.flip else (False,):
            view = seen[:, :, ::-1] if mirrored else seen
            result = getattr(engine, activation)(_blended(engine, forward, view, *axes))
            result = result[:, :, ::-1] if mirrored else result
            if total is None:
                total = result
            else:
                total += result
    count = len(views.scales) * (1 + views.flip)
    if count > 1:
        total /= count
    return total


def _blended(engine, forward, images, rows, columns):
    """The logits of one view, resized to the result."""

    def add_window(total, top, left):
        window = images[:, top : top + rows.span, left : left + columns.span]
        return engine.add(total, forward(window), rows, top, columns, left)

    return engine.fold(add_window, rows, columns, images)


def _resized(engine, images, size, new_size):
    """Images as float32 at another size; bilinear without antialiasing, corners not aligned."""
    if new_size is size:
        return engine.float32(images)
    rows, columns = (
        _Axis(engine, n, m, None, None, "mean", False) for n, m in zip(size, new_size, strict=True)
    )
    images = engine.float32(images)
    return engine.add(engine.zeros(images, new_size), images, rows, 0, columns, 0)


class _Axis:
    """The windows along one axis, and what each adds to the result.

    Attributes:
        span: pixels of a window.
        starts: where the windows begin; the last one is moved back to end with the image.
        new_size: of the result.
    """

    def __init__(self, engine, size, new_size, window, stride, blend, align_corners):
        self.engine = engine
        self.new_size = new_size
        self.span = size if window is None else engine.minimum(window, size)
        step = stride or 1
        last = size - self.span
        self.starts = engine.minimum(engine.range(0, last + step, step), last)
        self.profile = _profile(engine, self.span, blend)
        offset = engine.range(0, size, 1) - self.starts[:, None]
        weight = engine.take(self.profile, engine.clip(offset, 0, self.span - 1))
        inside = (offset >= 0) & (offset < self.span)
        # The denominator of the formula: it is a product of one factor for each axis.
        self.cover = engine.sum(engine.where(inside, weight, 0.0), 0)
        if new_size is size:
            self.lower = self.upper = engine.range(0, size, 1)
            self.choices: tuple[tuple[Any, Any], ...] = ((self.lower, engine.ones(size)),)
            return
        position = _positions(engine, size, new_size, align_corners)
        self.lower = engine.integer(engine.floor(position))
        self.upper = engine.minimum(self.lower + 1, size - 1)
        fraction = position - engine.float64(self.lower)
        self.choices = ((self.lower, 1 - fraction), (self.upper, fraction))

    def part(self, start):
        """What the window at `start` adds to.

        Returns:
            `(first, stop, taps)`: the range of outputs that it touches, and a list of
            `(index, weight)`. Each output is the sum over the taps of `weight` times the window's
            entry at `index`: bilinear resizing, and the window's share.
        """
        engine, stop = self.engine, start + self.span
        first = engine.count(self.upper < start)
        end = engine.count(self.lower < stop)
        taps = []
        for index, weight in self.choices:
            index, weight = index[first:end], weight[first:end]
            local = engine.clip(index - start, 0, self.span - 1)
            share = engine.take(self.profile, local) / engine.take(self.cover, index)
            inside = (index >= start) & (index < stop)
            taps.append((local, engine.float32(engine.where(inside, weight * share, 0.0))))
        return first, end, taps


def _profile(engine, span, blend):
    """The weights `g` of this file, float64."""
    n = engine.float64(span)
    center = engine.float64(engine.range(0, span, 1)) + 0.5
    if blend == "hann":
        return engine.sin(math.pi * center / n) ** 2
    if blend == "gaussian":
        return engine.exp(-0.5 * ((center - n / 2) / (n / 8)) ** 2)
    return engine.ones(span)


def _positions(engine, size, new_size, align_corners):
    """`keras_fsa.resize.positions` of sizes that only the running graph may know."""
    j = engine.float64(engine.range(0, new_size, 1))
    size, new_size = engine.float64(size), engine.float64(new_size)
    if align_corners:
        position = j * (size - 1) / engine.maximum(new_size - 1, 1.0)
    else:
        position = (j + 0.5) * size / new_size - 0.5
    return engine.clip(position, 0.0, size - 1)


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

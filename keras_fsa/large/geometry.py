"""Which pixels a position of a feature map sees, derived from a network's graph.

Along each axis, where the positions of a map are `stride` pixels apart, the value at position `i`
depends on the pixels

    stride * i + low  ..  stride * i + high

of the image and on no others. A convolution of kernel `k`, stride `t`, dilation `d` and padding `p`
reads positions `t i - p .. t i - p + d (k - 1)`, so it moves `low` by `-stride * p`, `high` by
`stride * (d (k - 1) - p)`, and multiplies the stride by `t`. One walk through the graph yields
these numbers for all its tensors.

Two rules make tiles exact:

- A tile begins at a multiple of the coarsest stride, and its size is congruent to the image's size
  modulo that stride. Then every layer's input size has the same remainder as in the whole image, so
  "same" padding and rounding of sizes, which depend on the remainder, are those of the whole image.
- A tile ends where the image does, and is padded there as the image is; or its margin is at least
  as wide as `low` and `high` require, and is cut off.
"""

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import keras
import numpy as np
from keras import layers

from keras_fsa.backbones.dilation import DilatedAveragePooling2D
from keras_fsa.graphs import maker, node, pointwise
from keras_fsa.layers import FrequencyBands, FrequencySelfAttention
from keras_fsa.layers.resize_like import ResizeLike
from keras_fsa.resize import positions

GLOBAL = (FrequencySelfAttention, FrequencyBands)

_WINDOWS = (
    layers.Conv2D,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
)


@dataclasses.dataclass(frozen=True)
class View:
    """How the positions of a map lie in the image, along one axis.

    Attributes:
        size: number of positions.
        stride: pixels from one to the next.
        low, high: the first and last pixel that position `i` sees, less `stride * i`.
    """

    size: int
    stride: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)

    def seen(self, start: int, stop: int) -> tuple[int, int]:
        """First pixel that the positions `start .. stop - 1` see, and one past the last."""
        first = math.floor(self.stride * start + self.low)
        return first, math.ceil(self.stride * (stop - 1) + self.high) + 1

    def positions(self, start: int, stop: int, end: int) -> tuple[int, int]:
        """The positions that belong to the pixels `start .. stop - 1` of `end` pixels."""
        first = min(self.size, math.ceil(start / self.stride))
        last = self.size if stop >= end else min(self.size, math.ceil(stop / self.stride))
        return first, last


def views(model: keras.Model, given: Sequence[View], axis: int) -> dict[int, View]:
    """The view of each tensor in a functional model's graph.

    Args:
        model: a functional model.
        given: the view of each of its inputs.
        axis: 0 for rows, 1 for columns.

    Returns:
        A dict whose keys are `id(tensor)`, for the `keras.KerasTensor`s of the graph.

    Raises:
        ValueError: for a layer that sees more than a neighbourhood, or is unknown.
    """
    found = {id(tensor): view for tensor, view in zip(model.inputs, given, strict=True)}
    pending = list(keras.tree.flatten(model.output))
    while pending:
        tensor = pending[-1]
        if id(tensor) in found:
            pending.pop()
            continue
        operation, sources = maker(tensor)
        missing = [source for source in sources if id(source) not in found]
        if missing:
            pending.extend(missing)
            continue
        pending.pop()
        if isinstance(operation, keras.Model) and hasattr(operation, "operations"):
            inner = views(operation, [found[id(source)] for source in sources], axis)
            outputs = keras.tree.flatten(operation.output)
            made = keras.tree.flatten(node(tensor).output_tensors)
            for outer, output in zip(made, outputs, strict=True):
                found[id(outer)] = inner[id(output)]
        else:
            found[id(tensor)] = _through(operation, [found[id(s)] for s in sources], axis)
    return found


def known(view: View, size: int) -> View:
    """The view of a map that is known everywhere: its positions see the first of their pixels.

    Args:
        view: the map's view.
        size: size of the image.
    """
    return _view(View(size), view.size, view.stride, Fraction(0), Fraction(0))


def grid(found: dict[int, View]) -> int:
    """The grid of tiles, in pixels: the least common multiple of all strides.

    Args:
        found: what `views` found in a model.
    """
    return math.lcm(*(view.stride.numerator for view in found.values()))


def _joined(operation, before):
    """The view of several maps that are read at the same positions."""
    if not before:
        _reject(operation, "it reads no map")
    first = before[0]
    if any((view.size, view.stride) != (first.size, first.stride) for view in before):
        _reject(operation, "it joins maps of different sizes")
    low, high = min(view.low for view in before), max(view.high for view in before)
    return dataclasses.replace(first, low=low, high=high)


def _through(operation, before, axis):
    if isinstance(operation, ResizeLike):
        return _resized_like(operation, *before)
    view = _joined(operation, before)
    if getattr(operation, "data_format", "channels_last") == "channels_first":
        _reject(operation, "its channels come first")
    if isinstance(operation, _WINDOWS):
        return _window(operation, view, axis)
    if isinstance(operation, layers.Conv2DTranspose):
        if operation.padding != "same":
            _reject(operation, "its padding is not 'same'")
        if operation.output_padding is not None:
            _reject(operation, "it has an output padding")
        step = operation.strides[axis]
        span = (operation.kernel_size[axis] - 1) * operation.dilation_rate[axis] + 1
        reach = math.ceil(span / step)
        return _resized(view, Fraction(step), view.size * step, reach, reach)
    if isinstance(operation, layers.UpSampling2D):
        factor = operation.size[axis]
        reach = (Fraction(factor - 1, factor), 0)
        if operation.interpolation == "bilinear":
            reach = (1, 1)
        elif operation.interpolation != "nearest":
            _reject(operation, f"its interpolation is {operation.interpolation!r}")
        return _resized(view, Fraction(factor), view.size * factor, *reach)
    if isinstance(operation, layers.ZeroPadding2D):
        before, after = operation.padding[axis]
        return _moved(view, view.size + before + after, -before, -before)
    if isinstance(operation, layers.Cropping2D):
        before, after = operation.cropping[axis]
        return _moved(view, view.size - before - after, before, before)
    if isinstance(operation, DilatedAveragePooling2D):
        return _moved(view, view.size, 0, operation.rate)
    if not (isinstance(operation, GLOBAL) or pointwise(operation, 4)):
        _reject(operation, "it is not known to see a neighbourhood only")
    return view


def _window(layer, view, axis):
    """Convolution and pooling."""
    kernel = getattr(layer, "kernel_size", None) or layer.pool_size
    dilation = getattr(layer, "dilation_rate", (1, 1))
    # Separable convolutions keep their arguments as they were given.
    kernel, dilation, strides = (_pair(value) for value in (kernel, dilation, layer.strides))
    span = (kernel[axis] - 1) * dilation[axis] + 1
    step = strides[axis]
    if layer.padding == "same":
        size = -(-view.size // step)
        padding = max((size - 1) * step + span - view.size, 0) // 2
    else:
        size = (view.size - span) // step + 1
        padding = 0
    return _moved(view, size, -padding, span - 1 - padding, step)


def _pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def _moved(view, size, first, last, step=1):
    """A map whose position `i` reads the positions `step * i + first .. step * i + last`."""
    low, high = view.low + view.stride * first, view.high + view.stride * last
    return _view(view, size, view.stride * step, low, high)


def _resized(view, factor, size, before, after):
    """A map with `factor` times the positions, each of which also reads some of its neighbours."""
    low, high = view.low - view.stride * before, view.high + view.stride * after
    return _view(view, size, view.stride / factor, low, high)


def _resized_like(layer, coarse, fine):
    """The view of a map that is resized to the size of another one.

    Sizes are rounded up, so the ratio of two sizes is not that of the strides, and a position may
    read others than those around it: the view includes what the worst of them sees.
    """
    read = positions(coarse.size, fine.size, layer.align_corners)
    unit = math.lcm(coarse.stride.denominator, fine.stride.denominator)
    step, at = int(coarse.stride * unit), int(fine.stride * unit) * np.arange(fine.size)
    first = Fraction(int((step * np.floor(read) - at).min()), unit)
    last = Fraction(int((step * np.ceil(read) - at).max()), unit)
    low, high = first + coarse.low, last + coarse.high
    return _view(fine, fine.size, fine.stride, min(low, fine.low), max(high, fine.high))


def _view(view, size, stride, low, high):
    # A position beyond the part of a map that a tile has must see beyond the tile, so that whatever
    # reads it is known not to be exact.
    beyond = view.stride * view.size - stride * size
    return View(size, stride, min(low, Fraction(0)), max(high, view.high + beyond))


def _reject(operation, reason):
    raise ValueError(
        "A network can be computed tile by tile where every layer sees a neighbourhood of known "
        "size, but for frequency self-attention, whose tokens are a sum over tiles. Received: "
        f"the layer {getattr(operation, 'name', operation)!r}, a {type(operation).__name__}: "
        f"{reason}. Take a backbone without it, or `keras_fsa.inference.probabilities` with a "
        "window, which sees no further than the window."
    )

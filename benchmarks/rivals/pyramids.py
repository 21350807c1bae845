"""Context without attention: pooling and dilated convolutions at several scales."""

from typing import Any

import keras
from keras import ops

from benchmarks.rivals.base import (
    Attention,
    average_pool,
    average_pool_flops,
    linear,
    resize_flops,
)
from keras_fsa.resize import resize_bilinear
from keras_fsa.types import Tensor


class Branch(keras.layers.Layer):
    """Convolution, batch norm, ReLU."""

    def __init__(self, filters: int, window: int = 1, rate: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.convolution = keras.layers.Conv2D(
            filters,
            window,
            padding="same",
            dilation_rate=rate,
            use_bias=False,
            dtype=self.dtype_policy,
        )
        self.norm = keras.layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy
        )

    def build(self, input_shape):
        self.convolution.build(input_shape)
        self.norm.build((*input_shape[:-1], self.convolution.filters))

    def call(self, x):
        return ops.relu(self.norm(self.convolution(x)))


class PyramidPooling(Attention):
    """Averages of `1, 2, 3` and `6` squared parts, each mapped to a quarter of the channels.

    They come back bilinearly and are concatenated. (In its source the map is concatenated, too, and
    a convolution follows; here the map is added, and the head's convolution follows.)

    Source: Zhao et al., "Pyramid Scene Parsing Network" (PSPNet), arXiv:1612.01105.
    """

    def __init__(self, counts: tuple[int, ...] = (1, 2, 3, 6), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.counts = counts

    def build(self, input_shape):
        super().build(input_shape)
        width = self.channels // len(self.counts)
        self.branches = [Branch(width, dtype=self.dtype_policy) for _ in self.counts]
        for branch in self.branches:
            branch.build(input_shape)

    def attend(self, x: Tensor) -> Tensor:
        _, height, width, channels = ops.shape(x)
        maps = []
        for count, branch, y in zip(
            self.counts, self.branches, average_pool(x, self.counts), strict=True
        ):
            y = branch(ops.reshape(y, (-1, count, count, channels)))
            maps.append(resize_bilinear(y, height, width))
        return ops.concatenate(maps, axis=-1)

    def flops(self, height: int, width: int) -> int:
        part = self.channels // len(self.counts)
        total = average_pool_flops(self.counts, self.channels, height, width)
        for count in self.counts:
            total += 2 * count**2 * self.channels * part + resize_flops(count, part, height, width)
        return total


class AtrousSpatialPyramidPooling(Attention):
    """Convolutions of 1x1 and, at three rates, 3x3, and the mean of the map; then 1x1 over all.

    Branches are half as wide as the map: 256 of 512. The rates are those of output stride 16; at 8
    the source doubles them. The mean is the same at all positions, and so is what the last
    convolution adds for it.

    Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution" (DeepLabV3+),
    arXiv:1802.02611.
    """

    def __init__(self, rates: tuple[int, ...] = (6, 12, 18), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rates = rates

    def build(self, input_shape):
        super().build(input_shape)
        self.part = self.channels // 2
        shapes = [(1, 1), *((3, rate) for rate in self.rates)]
        self.branches = [
            Branch(self.part, window, rate, dtype=self.dtype_policy) for window, rate in shapes
        ]
        self.image_branch = Branch(self.part, dtype=self.dtype_policy)
        for branch in (*self.branches, self.image_branch):
            branch.build(input_shape)
        self.projection = self.kernel("projection", len(shapes) * self.part, self.channels)
        self.image_projection = self.kernel("image_projection", self.part, self.channels)

    def attend(self, x: Tensor) -> Tensor:
        maps = ops.concatenate([branch(x) for branch in self.branches], axis=-1)
        image = self.image_branch(ops.mean(x, axis=(1, 2), keepdims=True))
        return linear(maps, self.projection) + linear(image, self.image_projection)

    def flops(self, height: int, width: int) -> int:
        windows = 1 + 9 * len(self.rates)
        mixed = 1 + len(self.rates)
        each = 2 * self.channels * self.part
        return each * (height * width * (windows + mixed) + 2)

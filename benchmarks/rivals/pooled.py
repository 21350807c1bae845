"""Attention to averages or strided convolutions of the map, of which there are few."""

from typing import Any

import keras
from keras import ops

from benchmarks.rivals.base import (
    Attention,
    average_pool,
    average_pool_flops,
    flat,
    linear,
    resize_flops,
    softmax_attention,
)
from keras_fsa.resize import resize_bilinear
from keras_fsa.types import Tensor


class AsymmetricPyramidAttention(Attention):
    """All positions attend to the averages of a pyramid of `n x n` parts: 110 of them.

    Averages commute with linear maps: keys and values are made of the averaged map.

    Source: Zhu et al., "Asymmetric Non-local Neural Networks for Semantic Segmentation" (APNB),
    arXiv:1908.07678. There, queries and keys share their kernel.
    """

    def __init__(self, counts: tuple[int, ...] = (1, 3, 6, 8), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.counts = counts

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()

    def attend(self, x: Tensor) -> Tensor:
        tokens = ops.concatenate(average_pool(x, self.counts), axis=1)
        key, value = linear(tokens, self.key), linear(tokens, self.value)
        y = softmax_attention(linear(flat(x), self.query), key, value)
        return ops.reshape(y, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        n, tokens = height * width, sum(count * count for count in self.counts)
        width_of_both = self.key_dim + self.channels
        maps = 2 * self.channels * (n * self.key_dim + tokens * width_of_both)
        pool = average_pool_flops(self.counts, self.channels, height, width)
        return pool + maps + 2 * n * tokens * width_of_both


class SpatialReductionAttention(Attention):
    """All positions attend to what a 4x4 convolution of stride 4 and a layer norm leave.

    4 is the ratio of the stage of stride 8.

    Source: Xie et al., "SegFormer", arXiv:2105.15203; Wang et al., "Pyramid Vision Transformer",
    arXiv:2102.12122.
    """

    def __init__(self, ratio: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ratio = ratio

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()
        self.reduction = keras.layers.Conv2D(
            self.channels, self.ratio, self.ratio, dtype=self.dtype_policy
        )
        self.norm_of_tokens = keras.layers.LayerNormalization(epsilon=1e-5, dtype=self.dtype_policy)
        self.reduction.build(input_shape)
        self.norm_of_tokens.build((None, None, self.channels))

    def attend(self, x: Tensor) -> Tensor:
        tokens = self.norm_of_tokens(flat(self.reduction(x)))
        key, value = linear(tokens, self.key), linear(tokens, self.value)
        y = softmax_attention(linear(flat(x), self.query), key, value)
        return ops.reshape(y, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        n, tokens = height * width, (height // self.ratio) * (width // self.ratio)
        width_of_both = self.key_dim + self.channels
        reduction = 2 * tokens * self.ratio**2 * self.channels**2
        maps = 2 * self.channels * (n * self.key_dim + tokens * width_of_both)
        return reduction + maps + 2 * n * tokens * width_of_both


class LowResolutionAttention(Attention):
    """Attention at a fixed low resolution, whatever the map's; then back to it bilinearly.

    Queries come from `16 x 16` averages, keys and values from a pyramid of 237. (The depthwise
    convolutions and layer norms of the averages in the authors' code are left out.)

    Source: Wu et al., "Low-Resolution Self-Attention for Semantic Segmentation" (LRFormer),
    arXiv:2310.05026.
    """

    def __init__(
        self, queries: int = 16, counts: tuple[int, ...] = (11, 8, 6, 4), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.queries, self.counts = queries, counts

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()

    def attend(self, x: Tensor) -> Tensor:
        _, height, width, channels = ops.shape(x)
        coarse, *parts = average_pool(x, (self.queries, *self.counts))
        tokens = ops.concatenate(parts, axis=1)
        key, value = linear(tokens, self.key), linear(tokens, self.value)
        y = softmax_attention(linear(coarse, self.query), key, value)
        y = ops.reshape(y, (-1, self.queries, self.queries, channels))
        return resize_bilinear(y, height, width)

    def flops(self, height: int, width: int) -> int:
        m, tokens = self.queries, sum(count * count for count in self.counts)
        width_of_both = self.key_dim + self.channels
        pool = average_pool_flops((m, *self.counts), self.channels, height, width)
        maps = 2 * self.channels * (m * m * self.key_dim + tokens * width_of_both)
        return (
            pool
            + maps
            + 2 * m * m * tokens * width_of_both
            + resize_flops(m, self.channels, height, width)
        )


class AgentAttention(Attention):
    """Few agents, averages of the queries, gather from all positions and give to all.

        a = 7 x 7 averages of q
        y = softmax(q a^T / sqrt(K)) softmax(a k^T / sqrt(K)) v + depthwise 3x3 convolution of v

    The biases by position, made for one size of the map, are left out.

    Source: Han et al., "Agent Attention: On the Integration of Softmax and Linear Attention",
    arXiv:2312.08874.
    """

    def __init__(self, agents: int = 7, window: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agents, self.window = agents, window
        self.local = keras.layers.DepthwiseConv2D(window, padding="same", dtype=self.dtype_policy)

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()
        self.local.build(input_shape)

    def attend(self, x: Tensor) -> Tensor:
        query, key, value = self.query_key_value(x)
        (agents,) = average_pool(query, (self.agents,))
        gathered = softmax_attention(agents, flat(key), flat(value))
        y = ops.reshape(softmax_attention(flat(query), agents, gathered), ops.shape(x))
        return y + self.local(value)

    def flops(self, height: int, width: int) -> int:
        n = height * width
        pool = average_pool_flops((self.agents,), self.key_dim, height, width)
        pairs = 4 * n * self.agents**2 * (self.key_dim + self.channels)
        local = 2 * n * self.window**2 * self.channels
        return self.query_key_value_flops(n) + pool + pairs + local

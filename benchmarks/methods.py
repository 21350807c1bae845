"""What is compared: frequency self-attention, what it replaces, and what users could take instead.

Every method is a layer from a map `(B, H, W, C)` to one of the same shape, `x + gain * y` with a
scalar gain, written for speed with large products and no loop over positions. Each counts the
products of matrices it does as `keras_fsa.flops` does: `flops(height, width)`, for one image.

Linear maps have no bias unless the source has one. Keys are `K = C // 8` wide and values `V = C`.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa.arguments import one_of
from keras_fsa.flops import attention_flops
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.spectral import dct_basis
from keras_fsa.types import DType, Tensor


class Copy(keras.layers.Layer):
    """The floor: the map read once and written once. The sign keeps compilers from eliding it."""

    def call(self, x):
        return -x

    def flops(self, height: int, width: int) -> int:
        return 0


def _linear(x, kernel):
    # In a stateless call under JAX, mixed precision leaves weights as they are.
    return x @ ops.cast(kernel, x.dtype)


class Attention(keras.layers.Layer):
    """`x + gain * attend(x)`. Linear maps of all positions are one product each."""

    def build(self, input_shape):
        self.channels = input_shape[-1]
        self.key_dim = max(2, self.channels // 8)
        self.gain = self.add_weight(name="gain", shape=(), initializer="ones")

    def kernel(self, name: str, rows: int, columns: int) -> keras.Variable:
        return self.add_weight(name=name, shape=(rows, columns))

    def query_key_value_kernels(self) -> None:
        self.query = self.kernel("query", self.channels, self.key_dim)
        self.key = self.kernel("key", self.channels, self.key_dim)
        self.value = self.kernel("value", self.channels, self.channels)

    def query_key_value_flops(self, positions: int) -> int:
        return 2 * positions * self.channels * (2 * self.key_dim + self.channels)

    def call(self, x):
        return x + ops.cast(self.gain, x.dtype) * self.attend(x)


class RegularAttention(Attention):
    """`softmax(q k^T / sqrt(K)) v` between all positions: the table of all pairs is held.

    Source: Wang et al., "Non-local Neural Networks", arXiv:1711.07971, with softmax affinities.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()

    def attend(self, x: Tensor) -> Tensor:
        _, height, width, channels = ops.shape(x)
        flat = ops.reshape(x, (-1, height * width, channels))
        query, key, value = (
            _linear(flat, self.query),
            _linear(flat, self.key),
            _linear(flat, self.value),
        )
        pairs = (query * self.key_dim**-0.5) @ ops.transpose(key, (0, 2, 1))
        return ops.reshape(ops.softmax(pairs) @ value, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        n = height * width
        pairs = 2 * n * n * (self.key_dim + self.channels)
        return self.query_key_value_flops(n) + pairs


class FusedAttention(Attention):
    """Regular attention by `keras.ops.dot_product_attention`, fused where the backend can.

    Fused kernels want keys as wide as values and narrow heads: heads of at most 64, as many as
    the channels give, queries and keys as wide as the map.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.heads = next(h for h in range(-(-self.channels // 64), 0, -1) if not self.channels % h)
        self.query_key_value = self.kernel("query_key_value", self.channels, 3 * self.channels)

    def attend(self, x: Tensor) -> Tensor:
        _, height, width, channels = ops.shape(x)
        flat = ops.reshape(x, (-1, height * width, channels))
        maps = ops.split(_linear(flat, self.query_key_value), 3, axis=-1)
        shape = (-1, height * width, self.heads, channels // self.heads)
        y = ops.dot_product_attention(*(ops.reshape(z, shape) for z in maps))
        return ops.reshape(y, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        n = height * width
        return 6 * n * self.channels**2 + 4 * n * n * self.channels


class DenseFrequencyAttention(Attention):
    """Dot-product frequency self-attention with the dense basis `P` of `N x k k`, as published.

    `P` is made once, when the layer is built for a size, and kept from call to call. In their
    repository the authors make it anew in every call of one of their two modules, which is slower.

    Source: the code of arXiv:2211.15595.
    """

    def __init__(self, frequencies: int = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.frequencies = frequencies

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()
        _, height, width, _ = input_shape
        rows = ops.convert_to_numpy(dct_basis(height, self.frequencies))
        columns = ops.convert_to_numpy(dct_basis(width, self.frequencies))
        self.basis = self.add_weight(
            name="basis",
            shape=(height * width, self.frequencies**2),
            initializer=lambda shape, dtype: ops.convert_to_tensor(np.kron(rows, columns), dtype),
            trainable=False,
        )

    def attend(self, x: Tensor) -> Tensor:
        _, height, width, channels = ops.shape(x)
        flat = ops.reshape(x, (-1, height * width, channels))
        basis = ops.cast(self.basis, x.dtype)
        tokens = ops.transpose(basis) @ flat
        query, key, value = (
            _linear(tokens, self.query),
            _linear(tokens, self.key),
            _linear(tokens, self.value),
        )
        pairs = query @ ops.transpose(key, (0, 2, 1)) / (height * width)
        return ops.reshape(basis @ (pairs @ value), ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        tokens = self.frequencies**2
        transforms = 4 * height * width * tokens * self.channels
        pairs = 2 * tokens * tokens * (self.key_dim + self.channels)
        return transforms + self.query_key_value_flops(tokens) + pairs


class CrissCrossAttention(Attention):
    """Each position attends to its row and its column; twice, so that all reach all.

    The softmax runs over the `H + W - 1` positions of the cross. The position itself is in its row,
    and so left out of its column.

    Source: Huang et al., "CCNet", arXiv:1811.11721.
    """

    def __init__(self, recurrence: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recurrence = recurrence

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()

    def call(self, x):
        for _ in range(self.recurrence):
            x = super().call(x)
        return x

    def attend(self, x: Tensor) -> Tensor:
        height = ops.shape(x)[1]
        query, key, value = _linear(x, self.query), _linear(x, self.key), _linear(x, self.value)
        itself = ops.expand_dims(ops.eye(height, dtype="bool"), 1)
        # Columns are put in the batch's place, so that both directions are products of matrices.
        query_c, key_c, value_c = (ops.transpose(z, (0, 2, 1, 3)) for z in (query, key, value))
        column = ops.transpose(query_c @ ops.transpose(key_c, (0, 1, 3, 2)), (0, 2, 1, 3))
        column = ops.where(itself, ops.cast(-1e4, column.dtype), column)
        row = query @ ops.transpose(key, (0, 1, 3, 2))
        cross = ops.softmax(ops.concatenate([column, row], axis=-1))
        column = ops.transpose(cross[..., :height], (0, 2, 1, 3)) @ value_c
        return ops.transpose(column, (0, 2, 1, 3)) + cross[..., height:] @ value

    def flops(self, height: int, width: int) -> int:
        n = height * width
        pairs = 2 * n * (height + width) * (self.key_dim + self.channels)
        return self.recurrence * (self.query_key_value_flops(n) + pairs)


class ExpectationMaximizationAttention(Attention):
    """The map is rebuilt from 64 bases, found by three steps of expectation and maximisation.

    With `f = x W1 + b1`: three times `z = softmax(f m)` over the bases, `m = f^T (z / sum z)`, unit
    columns. Then `y = relu(z m^T) W2`. No gradient goes through the steps. The batch norm after the
    second convolution is taken as folded into it; the moving average of the bases, done between
    training steps, is left out.

    Source: Li et al., "Expectation-Maximization Attention Networks", arXiv:1907.13426.
    """

    def __init__(self, bases: int = 64, steps: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bases, self.steps = bases, steps

    def build(self, input_shape):
        super().build(input_shape)
        self.convolution_1 = self.kernel("convolution_1", self.channels, self.channels)
        self.bias_1 = self.add_weight(name="bias_1", shape=(self.channels,), initializer="zeros")
        self.convolution_2 = self.kernel("convolution_2", self.channels, self.channels)
        self.start = self.add_weight(
            name="start", shape=(self.channels, self.bases), trainable=False
        )

    def attend(self, x: Tensor) -> Tensor:
        _, height, width, channels = ops.shape(x)
        flat = ops.reshape(x, (-1, height * width, channels))
        features = ops.stop_gradient(
            _linear(flat, self.convolution_1) + ops.cast(self.bias_1, x.dtype)
        )
        transposed = ops.transpose(features, (0, 2, 1))
        mu = ops.expand_dims(ops.cast(self.start, x.dtype), 0)
        for _ in range(self.steps):
            z = ops.softmax(features @ mu)
            mu = transposed @ (z / (1e-6 + ops.sum(z, axis=1, keepdims=True)))
            mu = mu / (1e-6 + ops.sqrt(ops.sum(ops.square(mu), axis=1, keepdims=True)))
        y = _linear(ops.relu(z @ ops.transpose(mu, (0, 2, 1))), self.convolution_2)
        return ops.reshape(y, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        n = height * width
        return 4 * n * self.channels**2 + (4 * self.steps + 2) * n * self.channels * self.bases


class EfficientAttention(Attention):
    """`softmax_channels(q) (softmax_positions(k)^T v)`.

    Source: Shen et al., "Efficient Attention: Attention with Linear Complexities",
    arXiv:1812.01243. Values are as wide as the map, so no projection follows them.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.query_key_value_kernels()

    def attend(self, x: Tensor) -> Tensor:
        _, height, width, channels = ops.shape(x)
        flat = ops.reshape(x, (-1, height * width, channels))
        query = ops.softmax(_linear(flat, self.query), axis=-1)
        key = ops.softmax(_linear(flat, self.key), axis=1)
        context = ops.transpose(key, (0, 2, 1)) @ _linear(flat, self.value)
        return ops.reshape(query @ context, ops.shape(x))

    def flops(self, height: int, width: int) -> int:
        n = height * width
        return self.query_key_value_flops(n) + 4 * n * self.key_dim * self.channels


def _ours(affinity, recurrence):
    return lambda frequencies, dtype: FrequencySelfAttention(
        frequencies, affinity, recurrence, data_format="channels_last", dtype=dtype
    )


def _rival(kind):
    return lambda frequencies, dtype: kind(dtype=dtype)


METHODS = {
    "copy": _rival(Copy),
    "regular": _rival(RegularAttention),
    "fused": _rival(FusedAttention),
    "dense": lambda frequencies, dtype: DenseFrequencyAttention(frequencies, dtype=dtype),
    "dot_product": _ours("dot_product", 1),
    "dot_product_r2": _ours("dot_product", 2),
    "dot_product_r4": _ours("dot_product", 4),
    "linear_softmax": _ours("linear_softmax", 1),
    "linear_softmax_r2": _ours("linear_softmax", 2),
    "criss_cross": _rival(CrissCrossAttention),
    "ema": _rival(ExpectationMaximizationAttention),
    "efficient": _rival(EfficientAttention),
}
# The type in which fused kernels are at their best, for them and beside them for ours.
HALF = "mixed_bfloat16"
HALF_METHODS = {"fused_bfloat16": "fused", "dot_product_bfloat16": "dot_product"}
ALL_METHODS = (*METHODS, *HALF_METHODS)


class TrainingStep(keras.layers.Layer):
    """A scalar out of all that a model gives in training."""

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def call(self, x):
        outputs = keras.tree.flatten(self.model(x, training=True))
        return sum(ops.mean(ops.square(y)) for y in outputs)


def _make_model(name, shape, training):
    # "fsanet:resnet101" and "fsanet_without_attention:resnet101".
    kind, backbone = name.split(":")
    attention = None if kind.endswith("without_attention") else "frequency"
    model = FsaNet(19, backbone=backbone, attention=attention)
    if not training:
        return model
    step = TrainingStep(model)
    step.build(shape)
    return step


def make_layer(
    name: str, shape: tuple, frequencies: int = 8, dtype: DType = "float32", training: bool = False
) -> keras.Layer:
    """A built layer of a method, with random weights that do not depend on the backend.

    Args:
        name: one of `ALL_METHODS`, or `"fsanet:BACKBONE"`, `"fsanet_without_attention:BACKBONE"`
            for a whole model, which in training is a `TrainingStep`.
        shape: of the map, `(B, H, W, C)`.
        frequencies: of the frequency methods.
        dtype: dtype policy. Methods named `..._bfloat16` have their own.

    Raises:
        ValueError: for an unknown name.
    """
    if name.startswith("fsanet"):
        return _make_model(name, shape, training)
    one_of("method", name, ALL_METHODS)
    if name in HALF_METHODS:
        name, dtype = HALF_METHODS[name], HALF
    layer = METHODS[name](frequencies, dtype)
    layer.build(shape)
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        shape = tuple(weight.shape)
        # The gain has no shape. None may profit from one of zero.
        weight.assign(rng.standard_normal(shape) * shape[0] ** -0.5 if shape else 0.5)
    return layer


def flops(layer: keras.Layer, height: int, width: int) -> int:
    """Operations of a forward pass for one image: see `keras_fsa.flops`."""
    if isinstance(layer, FrequencySelfAttention):
        return attention_flops(layer, height, width)
    return layer.flops(height, width)


def memory_of_regular(shape: tuple, itemsize: int = 4) -> int:
    """Bytes of regular attention that holds its table of pairs once, and q, k, v and the output.

    Backends may take more: a softmax that is not done in place holds a second table.
    """
    batch, height, width, channels = shape
    n = height * width
    key_dim = max(2, channels // 8)
    return batch * itemsize * n * (n + 2 * key_dim + 2 * channels)

"""Self-attention between positions: what frequency self-attention equals, and replaces."""

from typing import Any

import keras
from keras import ops

from keras_fsa import affinity as affinities
from keras_fsa import spectral
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.types import Frequencies


@keras.saving.register_keras_serializable(package="keras_fsa")
class SpatialSelfAttention(SelfAttention):
    """Regular self-attention between the positions of a feature map.

        q = z Wq    k = z Wk    v = z Wv      z the map, or its low-passed version
        y = softmax(q k^T / sqrt(key_dim)) v
        output = x + residual(y)

    The affinities of linear form are those of `FrequencySelfAttention`, which equals this layer, to
    rounding, where `low_pass` holds its frequencies and the weights are the same. Both layers have
    the same weights under the same names.

    Args:
        affinity: `"softmax"`, `"dot_product"`, `"linear_softmax"` or `"linear"`.
        low_pass: frequencies (an int, a pair, or a band) to which queries, keys and values are
            limited, or None for all.
        recurrence, key_dim, value_dim, use_bias, residual, kernel_initializer, kernel_regularizer,
            data_format, **kwargs: as in `FrequencySelfAttention`.

    Call arguments:
        inputs: feature map `(B, H, W, C)`, or `(B, C, H, W)` when channels come first.
        training: whether batch norm uses the batch's statistics.

    Output:
        A map of the shape of the input, in the layer's compute dtype.

    Where values are as wide as keys, and always on torch, the softmax runs through
    `keras.ops.dot_product_attention`, which is fused where the backend and the device have that;
    elsewhere the table of all pairs is held. The linear forms sum over keys first and never hold a
    table of pairs.

    Raises:
        ValueError: as in `FrequencySelfAttention`.

    Source: Wang et al., "Non-local Neural Networks", arXiv:1711.07971.
    """

    affinities = ("softmax", "dot_product", "linear_softmax", "linear")

    def __init__(
        self,
        affinity: str = "softmax",
        low_pass: Frequencies | None = None,
        recurrence: int = 1,
        key_dim: int | None = None,
        value_dim: int | None = None,
        use_bias: bool = False,
        residual: str = "gain",
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            affinity=affinity,
            recurrence=recurrence,
            key_dim=key_dim,
            value_dim=value_dim,
            use_bias=use_bias,
            residual=residual,
            kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer,
            data_format=data_format,
            **kwargs,
        )
        if low_pass is not None:
            spectral.parse_frequencies(low_pass)
        self.low_pass = low_pass

    def build(self, input_shape):
        super().build(input_shape)
        if self.low_pass is not None:
            spectral.check_band_fits(self.low_pass, *self.spatial_size(input_shape))

    def call(self, inputs, training=None):
        x = inputs
        if self.data_format == "channels_first":
            x = ops.transpose(x, (0, 2, 3, 1))
        x = ops.cast(x, self.token_dtype)
        for _ in range(self.recurrence):
            x = x + self._block(x, training)
        if self.data_format == "channels_first":
            x = ops.transpose(x, (0, 3, 1, 2))
        return ops.cast(x, self.compute_dtype)

    def _block(self, x, training):
        _, height, width, channels = ops.shape(x)
        positions = height * width
        if self.low_pass is not None:
            tokens = spectral.analysis(x, self.low_pass, strict=False)
            x = spectral.synthesis(tokens, height, width, self.low_pass, strict=False)
        x = ops.reshape(x, (-1, positions, channels))
        if self.affinity == "softmax":
            y = self._softmax(*self.query_key_value(ops.cast(x, self.compute_dtype)))
        else:
            query, key, value = self.query_key_value(x)
            y = affinities.POSITIONAL[self.affinity](query, key, value, positions)
        y = self.update(self.project(ops.cast(y, self.token_dtype)), training=training)
        return ops.reshape(y, (-1, height, width, channels))

    def _softmax(self, query, key, value):
        scale = key.shape[-1] ** -0.5
        # Kernels want values as wide as keys, but for torch's. Zeros to fill up the keys would buy
        # no kernel at the usual widths, and would cost as much again.
        if keras.backend.backend() == "torch" or key.shape[-1] == value.shape[-1]:
            heads = (ops.expand_dims(z, 2) for z in (query, key, value))  # One of them.
            return ops.squeeze(ops.dot_product_attention(*heads, scale=scale), 2)
        pairs = (query * scale) @ ops.transpose(key, (0, 2, 1))
        pairs = ops.softmax(ops.cast(pairs, self.token_dtype))
        return ops.cast(pairs, self.compute_dtype) @ value

    def get_config(self):
        return {**super().get_config(), "low_pass": self.low_pass}

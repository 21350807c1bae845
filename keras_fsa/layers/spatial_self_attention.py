"""Self-attention between positions, which frequency self-attention equals and replaces."""

from typing import Any

import keras
from keras import ops

from keras_fsa import spectral
from keras_fsa.affinities import Affinity
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.types import Frequencies, Tensor


@keras.saving.register_keras_serializable(package="keras_fsa")
class SpatialSelfAttention(SelfAttention):
    """Regular self-attention between the positions of a feature map.

        q = z Wq    k = z Wk    v = z Wv      z the map, or its low-passed version
        y = softmax(q k^T / sqrt(key_dim)) v
        output = x + residual(y)

    With an affinity of linear form, the same weights, and `low_pass` set to its frequencies,
    `FrequencySelfAttention` equals this layer up to rounding. Both layers have the same weights
    under the same names.

    Args:
        affinity: `"softmax"`, `"dot_product"`, `"linear_softmax"`, `"linear"`, `"relu_linear"`, or
            an object, see `keras_fsa.affinities`.
        low_pass: frequencies (an int, a pair, or a band) to which queries, keys and values are
            restricted, or None for all.
        recurrence, key_dim, value_dim, use_bias, residual, kernel_initializer, kernel_regularizer,
            data_format, num_heads, **kwargs: as in `FrequencySelfAttention`.

    Call arguments:
        inputs: feature map `(B, H, W, C)`, or `(B, C, H, W)` if channels come first.
        training: whether batch norm uses the batch's statistics.

    Output:
        A map with the shape of the input, in the layer's compute dtype.

    Under torch, and under JAX if values are as wide as keys, softmax attention is computed by
    `keras.ops.dot_product_attention`, which uses a fused kernel if the device has one; otherwise
    (and in float64) the `N x N` matrix of all pairs is materialised. The linear forms sum over keys
    first and never materialise it.

    Raises:
        ValueError: as in `FrequencySelfAttention`.

    Source: Wang et al., "Non-local Neural Networks", arXiv:1711.07971.
    """

    def __init__(
        self,
        affinity: str | Affinity = "softmax",
        low_pass: Frequencies | None = None,
        recurrence: int = 1,
        key_dim: int | None = None,
        value_dim: int | None = None,
        use_bias: bool = False,
        residual: str | None = "gain",
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        data_format: str | None = None,
        num_heads: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            affinity,
            recurrence,
            key_dim,
            value_dim,
            use_bias,
            residual,
            kernel_initializer,
            kernel_regularizer,
            data_format,
            num_heads,
            **kwargs,
        )
        if low_pass is not None:
            spectral.parse_frequencies(low_pass, "low_pass")
        self.low_pass = low_pass

    def build(self, input_shape):
        super().build(input_shape)
        if self.low_pass is not None:
            spectral.check_band_fits(self.low_pass, *self.spatial_size(input_shape), "low_pass")

    def call(self, inputs, training=None):
        x = inputs
        if self.data_format == "channels_first":
            x = ops.transpose(x, (0, 2, 3, 1))
        x = ops.cast(x, self.token_dtype)
        for _ in range(self.recurrence):
            y = self._block(x, training)
            x = y if self.residual is None else x + y
        if self.data_format == "channels_first":
            x = ops.transpose(x, (0, 3, 1, 2))
        return ops.cast(x, self.compute_dtype)

    def _block(self, x, training):
        _, height, width, channels = ops.shape(x)
        x = self._flat_low_pass(x)
        if self.affinity.half_precision:
            x = ops.cast(x, self.compute_dtype)
        y = self._attended(x, height * width)
        y = self.update(self.project(ops.cast(y, self.token_dtype)), training=training)
        return ops.reshape(y, (-1, height, width, channels))

    def _attended(self, x, positions):
        # By itself, so that torch frees queries, keys and values before the residual is added.
        query, key, value = map(self.split_heads, self.query_key_value(x))
        return self.join_heads(self.affinity.on_positions(query, key, value, positions))

    def queries_and_keys(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """See `SelfAttention`; here for the map or its low-passed version, channels last."""
        query, key, _ = self.query_key_value(self._flat_low_pass(feature_map))
        return query, key

    def _flat_low_pass(self, x):
        """The map, low-passed if `low_pass` is set, as `(B, N, C)`."""
        _, height, width, channels = ops.shape(x)
        if self.low_pass is not None:
            tokens = spectral.analysis(x, self.low_pass, strict=False)
            x = spectral.synthesis(tokens, height, width, self.low_pass, strict=False)
        return ops.reshape(x, (-1, height * width, channels))

    def get_config(self):
        return {**super().get_config(), "low_pass": self.low_pass}

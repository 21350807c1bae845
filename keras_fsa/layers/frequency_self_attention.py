"""Frequency self-attention: the paper."""

from typing import Any

import keras
from keras import ops

from keras_fsa import spectral
from keras_fsa.affinities import Affinity
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.types import Frequencies, Tensor


@keras.saving.register_keras_serializable(package="keras_fsa")
class FrequencySelfAttention(SelfAttention):
    """Self-attention between the low frequencies of a feature map.

    The map `x` of `N = H * W` positions is transformed into `T` spectral tokens, 64 for
    `frequencies=8`. The tokens attend to each other, and the result is mapped back to all positions
    and added to the input:

        X = P^T x                             analysis, P the two-dimensional DCT basis of the band
        Q = X Wq    K = X Wk    V = X Wv      token maps
        Y = (Q K^T / N) V                     affinity="dot_product"
        output = x + residual(P Y)            synthesis

    Up to rounding, this equals spatial attention of the same linear form between all positions of
    the low-passed map `P P^T x`, at about a hundredth of the cost. With
    `affinity="linear_softmax"`, position n attends to position m with weight `1 + cos(q_n, k_m)`;
    with `"linear"`, with weight `1 + q_n . k_m / sqrt(key_dim)`. Both are normalised over m; see
    `keras_fsa.affinities` for the formulas.

    The block is initialised to the identity, whichever residual it has, so it can be inserted into
    a trained network. Arguments select either of the two published families:

    | family | arguments                                                                           |
    | ------ | ----------------------------------------------------------------------------------- |
    | ccnet  | the defaults: `residual="gain"`, `value_dim=None`; 8 frequencies, `recurrence=2`    |
    | mmseg  | `residual="batch_norm"`, `key_dim=C // 2`, `value_dim=C // 2`; 5 frequencies        |

    Args:
        frequencies: how many of the lowest frequencies: an int, a pair (rows, columns), or a band
            `((u0, u1), (v0, v1))` of half-open ranges.
        affinity: `"dot_product"`, `"linear_softmax"` or `"linear"`.
        recurrence: how many times the block is applied, with the same weights. With the dot
            product only the tokens are iterated, at almost no extra cost.
        key_dim: width of queries and keys. Default: an eighth of the channels, at least 2.
        value_dim: width of the values, which an output projection then maps back to the channels.
            Default: values as wide as the channels, and no projection.
        use_bias: whether queries, keys and values have biases, the same at all positions.
        residual: `"gain"` for `x + gain * (y + bias)` with a scalar gain that starts at zero and a
            bias per channel; `"batch_norm"` for `x + batch_norm(y)` whose scale starts at zero.
        kernel_initializer, kernel_regularizer: for the kernels of all linear maps.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras' setting.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: feature map `(B, H, W, C)`, or `(B, C, H, W)` when channels come first. Height and
            width may be unknown when the graph is built; the frequencies that a map smaller than
            the band lacks are then zero.
        training: whether batch norm uses the batch's statistics.

    Output:
        A map of the shape of the input, in the layer's compute dtype. Tokens are float32 under
        mixed precision.

    Raises:
        ValueError: for an argument of the wrong kind; when the layer is built, for an input that is
            not of rank 4 or has an unknown number of channels, or a band beyond a known height or
            width.

    Example:
    >>> import keras
    >>> x = keras.random.normal((2, 97, 97, 512))
    >>> tuple(keras_fsa.layers.FrequencySelfAttention(frequencies=8)(x).shape)
    (2, 97, 97, 512)

    Inserted between two blocks of a trained network, whose outputs do not change until it is
    fine-tuned:

    >>> network = keras.applications.MobileNetV2((None, None, 3), weights=None, include_top=False)
    >>> def attend(layer, *args, **kwargs):
    ...     x = layer(*args, **kwargs)
    ...     if layer.name == "block_5_add":
    ...         x = keras_fsa.layers.FrequencySelfAttention(frequencies=4)(x)
    ...     return x
    >>> attended = keras.models.clone_model(network, call_function=attend)
    >>> for layer in network.layers[1:]:  # all but the input
    ...     attended.get_layer(layer.name).set_weights(layer.get_weights())
    >>> x = keras.random.uniform((1, 64, 96, 3))
    >>> float(keras.ops.max(keras.ops.abs(attended(x) - network(x))))
    0.0

    Source: Zhang, Panahi, Gao, arXiv:2211.15595. The separable transform, the recurrence on tokens,
    bands that lack the constant frequency, and biases are original to this library.
    """

    needs_tokens = True

    def __init__(
        self,
        frequencies: Frequencies = 8,
        affinity: str | Affinity = "dot_product",
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
            affinity,
            recurrence,
            key_dim,
            value_dim,
            use_bias,
            residual,
            kernel_initializer,
            kernel_regularizer,
            data_format,
            **kwargs,
        )
        self.band = spectral.parse_frequencies(frequencies)
        self.frequencies = frequencies

    def build(self, input_shape):
        super().build(input_shape)
        spectral.check_band_fits(self.frequencies, *self.spatial_size(input_shape))

    def call(self, inputs, training=None):
        x = self.map_update(inputs, training)
        # In place where the backend can: a second map of this size costs as much as the rest.
        x += ops.cast(inputs, self.token_dtype)
        return ops.cast(x, self.compute_dtype)

    def map_update(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """What the layer adds to its input: a map in the dtype of tokens."""
        height, width = self.spatial_size(ops.shape(inputs))
        if self.affinity.stays_in_band:
            return self._attend_tokens(inputs, height, width, training)
        return self._attend_map(inputs, height, width, training)

    def _attend_tokens(self, inputs, height, width, training):
        """The update stays in the band, so only tokens are iterated."""
        positions = height * width
        tokens = self._analysis(inputs, self.data_format)
        total = self._token_update(tokens, positions, training)
        for _ in range(self.recurrence - 1):
            total = total + self._token_update(tokens + self._in_band(total), positions, training)
        return self._synthesis(total, height, width, self.data_format)

    def _token_update(self, tokens, positions, training=None):
        """One application of the block to tokens: what is to be added to them."""
        query, key, value = self.query_key_value(tokens, positions)
        value = self.project(value)
        (y,) = self.affinity.context(query, key, value, positions, visit=None)
        return self.update(y, positions, training)

    def _attend_map(self, inputs, height, width, training):
        """Each position has a share of its own in the update, so the map itself is iterated."""
        tokens = self._analysis(inputs, self.data_format)
        total = self._map_update(tokens, height, width, training)
        for _ in range(self.recurrence - 1):
            moved = tokens + self._analysis(total)
            total += self._map_update(moved, height, width, training)
        if self.data_format == "channels_first":
            total = ops.transpose(total, (0, 3, 1, 2))
        return total

    def _map_update(self, tokens, height, width, training):
        """One application of the block: what is to be added to the map, channels last."""
        positions = height * width

        def synthesis(tokens, **options):
            return self._synthesis(tokens, height, width, **options)

        def visit(tokens, function):
            return self._analysis(function(synthesis(tokens)), with_constant=True)

        query, key, value = self.query_key_value(tokens, positions)
        value = self.project(value)
        # A sum with weights that sum to one passes constants on, so the update may come first.
        update_first = self.residual == "gain" and self.affinity.sums_to_one
        if update_first:
            value = self.update(value, positions)
        context = self.affinity.context(query, key, value, positions, visit)
        y = self.affinity.at_positions(context, positions, synthesis)
        return y if update_first else self.update(y, training=training)

    def queries_and_keys(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """See `SelfAttention`: of the low-passed map, channels last."""
        height, width = ops.shape(feature_map)[1:3]
        positions = height * width
        query, key, _ = self.query_key_value(self._analysis(feature_map), positions)
        query, key = (self._synthesis(z, height, width) for z in (query, key))
        shape = (-1, positions, query.shape[-1])
        return ops.reshape(query, shape), ops.reshape(key, shape)

    # Biases live on the constant frequency. A band that lacks it gets one more token for it, in
    # front, where the constant token of other bands is: zero in what is read from the map, whose
    # mean is outside the band, but free to change in the queries, keys, values and updates.

    def _analysis(self, x, data_format="channels_last", with_constant=False):
        tokens = spectral.analysis(x, self.band, data_format, strict=False)
        if spectral.has_constant(self.band):
            return tokens
        if with_constant:
            constant = spectral.analysis(x, 1, data_format)
        else:
            constant = ops.zeros_like(tokens[:, :1])
        return ops.concatenate([constant, tokens], axis=1)

    def _synthesis(
        self, tokens, height, width, data_format="channels_last", weight=None, offset=None
    ):
        constant = None
        if not spectral.has_constant(self.band):
            constant, tokens = tokens[:, :1], tokens[:, 1:]
        x = spectral.synthesis(
            tokens, height, width, self.band, data_format, False, weight=weight, offset=offset
        )
        if constant is not None:
            x += spectral.synthesis(constant, height, width, 1, data_format, weight=weight)
        return x

    def _in_band(self, tokens):
        if spectral.has_constant(self.band):
            return tokens
        return ops.concatenate([ops.zeros_like(tokens[:, :1]), tokens[:, 1:]], axis=1)

    def get_config(self):
        return {**super().get_config(), "frequencies": self.frequencies}

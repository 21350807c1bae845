"""Frequency self-attention, the layer of the paper."""

from typing import Any

import keras
from keras import ops

from keras_fsa import affinities, spectral
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

    With several heads, each has its own part of the channels of `Q`, `K` and `V`, and its own
    affinities; their outputs are concatenated, or summed by the output projection.

    With either residual, the block is initialised to the identity, so it can be inserted into a
    trained network. Arguments select one of the two published families:

    | family | arguments                                                                           |
    | ------ | ----------------------------------------------------------------------------------- |
    | ccnet  | the defaults: `residual="gain"`, `value_dim=None`; 8 frequencies, `recurrence=2`    |
    | mmseg  | `residual="batch_norm"`, `key_dim=C // 2`, `value_dim=C // 2`; 5 frequencies        |

    Args:
        frequencies: how many of the lowest frequencies: an int, a pair (rows, columns), or a band
            `((u0, u1), (v0, v1))` of half-open ranges.
        affinity: `"dot_product"`, `"linear_softmax"`, `"linear"`, `"relu_linear"`, or an object
            with a form on tokens, see `keras_fsa.affinities`.
        recurrence: how many times the block is applied, with the same weights. With the dot
            product only the tokens are iterated, at almost no extra cost.
        key_dim: width of queries and keys, of all heads together. Default: an eighth of the
            channels, but at least 2 for each head.
        value_dim: width of the values, which an output projection then maps back to the channels.
            Default: values as wide as the channels, and no projection.
        use_bias: whether queries, keys and values have biases, the same at all positions.
        residual: `"gain"` for `x + gain * (y + bias)` with a scalar gain that starts at zero and a
            bias per channel; `"batch_norm"` for `x + batch_norm(y)` whose scale starts at zero;
            None for `y` alone, with a bias if `use_bias`, as `keras.layers.MultiHeadAttention`
            returns it: the surrounding network adds the input, and the block is no identity.
        kernel_initializer, kernel_regularizer: for the kernels of all linear maps.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras' setting.
        num_heads: number of heads, among which the widths are divided (the paper: 1). Weights have
            the same names and shapes for any number.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: feature map `(B, H, W, C)`, or `(B, C, H, W)` if channels come first. Height and
            width may be unknown when the graph is built; a map smaller than the band is then
            treated as if its missing frequencies were zero.
        training: whether batch norm uses the batch's statistics.

    Output:
        A map with the shape of the input, in the layer's compute dtype. Tokens are float32 under
        mixed precision.

    Raises:
        ValueError: for an argument of the wrong kind, a width not divisible by the number of heads,
            or a recurrence without a residual; when the layer is built, for an input that is not of
            rank 4, a number of channels that is unknown or not divisible by the number of heads, or
            a band beyond a known height or width.

    Example:
    >>> import keras
    >>> x = keras.random.normal((2, 97, 97, 512))
    >>> tuple(keras_fsa.layers.FrequencySelfAttention(frequencies=8)(x).shape)
    (2, 97, 97, 512)

    Here the layer is inserted between two blocks of a trained network, whose outputs do not change
    until it is fine-tuned:

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
        self.band = spectral.parse_frequencies(frequencies)
        self.frequencies = frequencies

    def build(self, input_shape):
        super().build(input_shape)
        spectral.check_band_fits(self.frequencies, *self.spatial_size(input_shape))

    def call(self, inputs, training=None):
        x = self.map_update(inputs, training)
        if self.residual is None:
            return ops.cast(x, self.compute_dtype)
        return ops.cast(self._added(x, ops.cast(inputs, self.token_dtype)), self.compute_dtype)

    def map_update(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """What the layer adds to its input, if anything: a map in the dtype of tokens."""
        height, width = self.spatial_size(ops.shape(inputs))
        if self.affinity.stays_in_band:
            return self._attend_tokens(inputs, height, width, training)
        return self._attend_map(inputs, height, width, training)

    def _attend_tokens(self, inputs, height, width, training):
        """Iterate on tokens alone, for an update that stays in the band."""
        positions = height * width
        tokens = self._analysis(inputs, self.data_format)
        total = self._token_update(tokens, positions, training)
        for _ in range(self.recurrence - 1):
            total = total + self._token_update(tokens + self._in_band(total), positions, training)
        return self._synthesis(total, height, width, self.data_format)

    def _token_update(self, tokens, positions, training=None):
        """One application of the block to tokens: the update to add to them."""
        query, key, value = self.query_key_value(tokens, positions)
        if not self.project_last:
            value = self.project(value)
        query, key, value = map(self.split_heads, (query, key, value))
        (y,) = self.affinity.context(query, key, value, positions, visit=None)
        y = self.join_heads(y)
        if self.project_last:
            y = self.project(y)
        return self.update(y, positions, training)

    def _attend_map(self, inputs, height, width, training):
        """Iterate on the map itself, for an update that depends on each position."""
        tokens = self._analysis(inputs, self.data_format)
        total = self._map_update(tokens, height, width, training)
        for _ in range(self.recurrence - 1):
            moved = tokens + self._analysis(total)
            total = self._added(total, self._map_update(moved, height, width, training))
        if self.data_format == "channels_first":
            total = ops.transpose(total, (0, 3, 1, 2))
        return total

    def _added(self, update, x):
        """The sum of an update of the map and another map."""
        if not affinities.is_built_in(self.affinity):
            # It may be a view, or a tensor that the gradient needs.
            return update + x
        # In place where the backend can: a second map of this size costs as much as the rest.
        update += x
        return update

    def _map_update(self, tokens, height, width, training):
        """One application of the block: the update to add to the map, channels last."""
        positions = height * width

        # The output projection sums over heads. Done before that, where there are few tokens, it
        # leaves a map of all channels for each head to be summed.
        summed = 1
        if self.output_kernel is not None and not self.project_last:
            summed = self.num_heads

        def synthesis(tokens, **options):
            if "weight" in options:
                options["summed"] = summed
            return self._synthesis(tokens, height, width, **options)

        def visit(tokens, function):
            return self._analysis(function(synthesis(tokens)), with_constant=True)

        query, key, value = self.query_key_value(tokens, positions)
        query, key = self.split_heads(query), self.split_heads(key)
        if summed > 1:
            value = self._project_heads(value)
        elif not self.project_last:
            value = self.project(value)
        # A sum with weights that sum to one passes constants on, so the update may come first.
        update_first = self.residual != "batch_norm" and not self.project_last
        update_first &= self.affinity.sums_to_one
        if update_first:
            value = self.update(value, positions, summands=summed)
        if summed == 1:
            value = self.split_heads(value)
        context = self.affinity.context(query, key, value, positions, visit)
        y = self.affinity.at_positions(context, positions, synthesis)
        if summed == 1:
            y = self.join_heads(y)
        if self.project_last:
            y = self.project(y)
        return y if update_first else self.update(y, training=training)

    def _project_heads(self, value):
        """What each head's values add to the output: `(B, T, V)` to `(B * heads, T, C)`."""
        length, width = ops.shape(value)[1], value.shape[-1] // self.num_heads
        value = ops.reshape(value, (-1, length, self.num_heads, width))
        kernel = ops.cast(self.output_kernel, value.dtype)
        kernel = ops.reshape(kernel, (self.num_heads, width, -1))
        value = ops.transpose(value, (0, 2, 1, 3)) @ kernel
        return ops.reshape(value, (-1, length, kernel.shape[-1]))

    def queries_and_keys(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """See `SelfAttention`; here for the low-passed map, channels last."""
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
        self, tokens, height, width, data_format="channels_last", weight=None, offset=None, summed=1
    ):
        constant = None
        if not spectral.has_constant(self.band):
            constant, tokens = tokens[:, :1], tokens[:, 1:]
        options = {"data_format": data_format, "weight": weight, "summed": summed}
        x = spectral.synthesis(
            tokens, height, width, self.band, strict=False, offset=offset, **options
        )
        if constant is not None:
            x += spectral.synthesis(constant, height, width, 1, **options)
        return x

    def _in_band(self, tokens):
        if spectral.has_constant(self.band):
            return tokens
        return ops.concatenate([ops.zeros_like(tokens[:, :1]), tokens[:, 1:]], axis=1)

    def get_config(self):
        return {**super().get_config(), "frequencies": self.frequencies}

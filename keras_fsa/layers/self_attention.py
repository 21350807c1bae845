"""What self-attention between frequencies and between positions have in common."""

from typing import Any

import keras
from keras import ops

from keras_fsa import affinities, spectral
from keras_fsa.affinities import Affinity
from keras_fsa.arguments import (
    MOST,
    boolean,
    floating_dtype,
    integer,
    interpreted,
    is_integer,
    one_of,
)
from keras_fsa.layers.batch_normalization import TokenBatchNormalization
from keras_fsa.types import Shape, Size, Tensor

RESIDUALS = ("gain", "batch_norm", None)
DATA_FORMATS = ("channels_last", "channels_first", None)
KERNELS = ("query_kernel", "key_kernel", "value_kernel", "output_kernel")
# Between the seeds of a layer's kernels: further than layers of neighbouring seeds are apart.
_STEP = 1_000_003


class SelfAttention(keras.layers.Layer):
    """Arguments, weights and residual of a self-attention block on a feature map.

    Base class of `FrequencySelfAttention` and `SpatialSelfAttention`, which therefore have the same
    weights under the same names.

    Each head is an attention of its own, with its own part of the channels of queries, keys and
    values. Heads are moved to the batch axis and back here, so no affinity needs to know of them.

    Args:
        affinity: a name or an object, see `keras_fsa.affinities`. The attribute `affinity` is the
            object, which equals its name.
        recurrence: how many times the block is applied, with the same weights.
        key_dim: width of queries and keys, of all heads together. Default: an eighth of the
            channels, but at least 2 for each head.
        value_dim: width of the values, which an output projection then maps back to the channels.
            Default: values as wide as the channels, and no projection.
        use_bias: whether queries, keys and values have biases, the same at all positions.
        residual: `"gain"` for `x + gain * (y + bias)` with a scalar gain that starts at zero and a
            bias per channel; `"batch_norm"` for `x + batch_norm(y)` whose scale starts at zero;
            None for `y` alone, with a bias if `use_bias`.
        kernel_initializer, kernel_regularizer: for the kernels of all linear maps.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras' setting.
        num_heads: number of heads, among which the widths are divided.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Raises:
        ValueError: for an argument of the wrong kind, a width not divisible by the number of heads,
            or a recurrence without a residual; when the layer is built, for an input that is not of
            rank 4, or a number of channels that is unknown or not divisible by that of heads.
    """

    needs_tokens = False
    """Whether the affinity must have a form on tokens."""

    def __init__(
        self,
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
        super().__init__(**kwargs)
        floating_dtype(self.compute_dtype)
        integer("recurrence", recurrence, maximum=MOST)
        integer("key_dim", key_dim, optional=True, maximum=MOST)
        integer("value_dim", value_dim, optional=True, maximum=MOST)
        boolean("use_bias", use_bias)
        one_of("residual", residual, RESIDUALS)
        one_of("data_format", data_format, DATA_FORMATS)
        integer("num_heads", num_heads, maximum=MOST)
        _check_divided("key_dim", key_dim, num_heads)
        _check_divided("value_dim", value_dim, num_heads)
        if residual is None and recurrence > 1:
            raise ValueError(
                "`recurrence` must be 1 without a residual, to which each application would add. "
                f"Received: recurrence={recurrence} with residual=None. Leave it out, or choose "
                "residual='gain'."
            )
        self.affinity = affinities.get(affinity, spectral=self.needs_tokens)
        self.recurrence = recurrence
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.num_heads = num_heads
        self.use_bias = use_bias
        self.residual = residual
        self.kernel_initializer = interpreted(
            "kernel_initializer", kernel_initializer, keras.initializers.get
        )
        self.kernel_regularizer = interpreted(
            "kernel_regularizer", kernel_regularizer, keras.regularizers.get
        )
        self.data_format = data_format or keras.config.image_data_format()
        # Fragile sums and products are done in this dtype, under mixed precision too.
        self.token_dtype = spectral.token_dtype(self.compute_dtype)
        if residual == "batch_norm":
            self.norm = TokenBatchNormalization(
                momentum=0.9,
                epsilon=1e-5,
                gamma_initializer="zeros",
                dtype=self.token_dtype,
                name="norm",
            )

    def spatial_size(self, shape: Shape) -> tuple[Size, Size]:
        """Height and width from a map's shape."""
        return spectral.spatial_size(shape, self.data_format)

    def build(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(
                f"`{type(self).__name__}` takes a feature map of rank 4: batch, height, width and "
                f"channels. Received: input_shape={tuple(input_shape)}. Reshape the input."
            )
        channels = input_shape[-1 if self.data_format == "channels_last" else 1]
        if channels is None:
            raise ValueError(
                f"`{type(self).__name__}` must know the number of channels when it is built. "
                f"Received: input_shape={tuple(input_shape)} with data_format="
                f"{self.data_format!r}. Give the input a fixed number of channels."
            )
        key_dim = self.key_dim or self.num_heads * max(2, channels // (8 * self.num_heads))
        value_dim = self.value_dim or channels
        _check_divided("channels", value_dim, self.num_heads)
        self.query_kernel = self._kernel("query_kernel", (channels, key_dim))
        self.key_kernel = self._kernel("key_kernel", (channels, key_dim))
        self.value_kernel = self._kernel("value_kernel", (channels, value_dim))
        self.query_bias = self.key_bias = self.value_bias = None
        if self.use_bias:
            self.query_bias = self._zeros("query_bias", (key_dim,))
            self.key_bias = self._zeros("key_bias", (key_dim,))
            self.value_bias = self._zeros("value_bias", (value_dim,))
        self.output_kernel = None
        if self.value_dim is not None:
            self.output_kernel = self._kernel("output_kernel", (value_dim, channels))
        self.output_bias = None
        if self.residual == "gain":
            self.gain = self._zeros("gain", ())
        if self.residual == "gain" or (self.residual is None and self.use_bias):
            self.output_bias = self._zeros("output_bias", (channels,))
        if self.residual == "batch_norm":
            self.norm.build((None, None, channels))

    def _kernel(self, name, shape):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=_drawn_apart(self.kernel_initializer, KERNELS.index(name)),
            regularizer=self.kernel_regularizer,
            autocast=False,
        )

    def _zeros(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="zeros", autocast=False)

    def _linear(self, x, kernel, bias=None, positions=None):
        """`x W + b` on a map, or on tokens of a map if its `positions` is given."""
        x = x @ ops.cast(kernel, x.dtype)
        if bias is None:
            return x
        if positions is None:
            return x + ops.cast(bias, x.dtype)
        return spectral.add_constant(x, bias, positions)

    def query_key_value(
        self, x: Tensor, positions: Size | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Linear maps of a flattened map `(B, N, C)`, or of tokens if `positions` is given."""
        return (
            self._linear(x, self.query_kernel, self.query_bias, positions),
            self._linear(x, self.key_kernel, self.key_bias, positions),
            self._linear(x, self.value_kernel, self.value_bias, positions),
        )

    def split_heads(self, x: Tensor) -> Tensor:
        """Each head as an example of its own: `(B, T, heads * D)` to `(B * heads, T, D)`."""
        if self.num_heads == 1:
            return x
        length, width = ops.shape(x)[1], x.shape[-1] // self.num_heads
        x = ops.reshape(x, (-1, length, self.num_heads, width))
        return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, length, width))

    def join_heads(self, x: Tensor) -> Tensor:
        """The inverse of `split_heads`, for tokens `(B * heads, T, D)` or a map of four axes."""
        if self.num_heads == 1:
            return x
        between, width = ops.shape(x)[1:-1], x.shape[-1]
        x = ops.reshape(x, (-1, self.num_heads, *between, width))
        return ops.reshape(ops.moveaxis(x, 1, -2), (-1, *between, self.num_heads * width))

    @property
    def project_last(self) -> bool:
        """Whether the output projection of tokens comes after their sum, not before it."""
        several = self.num_heads > 1 and self.value_dim is not None
        return several and (self.affinity.stays_in_band or not self.affinity.ends_in_synthesis)

    def queries_and_keys(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys at all positions of a map `(B, H, W, C)`, each `(B, H * W, K)`."""
        raise NotImplementedError

    def project(self, value: Tensor) -> Tensor:
        """The output projection, if there is one. It commutes with every attention's sum."""
        return value if self.output_kernel is None else self._linear(value, self.output_kernel)

    def update(
        self,
        y: Tensor,
        positions: Size | None = None,
        training: bool | None = None,
        summands: int = 1,
    ) -> Tensor:
        """What is added to the input: `gain * (y + bias)` or the batch norm of `y`.

        If several updates will be summed, each gets its share of the bias. Not for batch norm.
        """
        if self.residual == "batch_norm":
            return self.norm(y, positions=positions, training=training)
        if self.output_bias is not None:
            bias = ops.cast(self.output_bias, y.dtype)
            if summands > 1:
                bias = bias / summands
            y = y + bias if positions is None else spectral.add_constant(y, bias, positions)
        return y if self.residual is None else y * ops.cast(self.gain, y.dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "affinity": affinities.serialize(self.affinity),
            "recurrence": self.recurrence,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "use_bias": self.use_bias,
            "residual": self.residual,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "data_format": self.data_format,
            # Files with one head open in 0.1.0, which knows no other number.
            **({} if self.num_heads == 1 else {"num_heads": self.num_heads}),
        }


def _drawn_apart(initializer, number):
    """An initializer for one of several kernels.

    An initializer object draws the same values each time, and so do its copies if it has a seed:
    queries would start out equal to keys.
    """
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    seed = config.get("seed")
    if is_integer(seed):
        return type(initializer).from_config({**config, "seed": (seed + _STEP * number) % 2**31})
    # A generator in the place of a seed goes on by itself.
    return initializer.clone() if seed is None else initializer


def _check_divided(name, width, num_heads):
    if width is not None and width % num_heads:
        raise ValueError(
            f"`{name}` must be a multiple of `num_heads`: each head has its own part. Received: "
            f"{name}={width}, num_heads={num_heads}. Choose a number of heads that divides it."
        )


def check_attention(layer: Any) -> None:
    """Raise a `ValueError` unless this is an attention layer that has its weights."""
    if not (isinstance(layer, SelfAttention) and layer.built):
        raise ValueError(
            "`layer` must be a built FrequencySelfAttention or SpatialSelfAttention. Received: "
            f"layer={layer!r}. Pass one of a model's layers, or call layer.build(input_shape)."
        )

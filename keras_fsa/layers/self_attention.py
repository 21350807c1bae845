"""What self-attention between frequencies and between positions have in common."""

from typing import Any

import keras
from keras import ops

from keras_fsa import spectral
from keras_fsa.arguments import one_of, positive_int
from keras_fsa.layers.batch_normalization import TokenBatchNormalization
from keras_fsa.types import Shape, Size, Tensor

RESIDUALS = ("gain", "batch_norm")


class SelfAttention(keras.layers.Layer):
    """Arguments, weights and residual of a self-attention block on a feature map.

    Base of `FrequencySelfAttention` and `SpatialSelfAttention`, which therefore share weights, name
    for name.
    """

    affinities = ()

    def __init__(
        self,
        affinity: str,
        recurrence: int,
        key_dim: int | None,
        value_dim: int | None,
        use_bias: bool,
        residual: str,
        kernel_initializer: Any,
        kernel_regularizer: Any,
        data_format: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        one_of("affinity", affinity, self.affinities)
        positive_int("recurrence", recurrence)
        positive_int("key_dim", key_dim, optional=True)
        positive_int("value_dim", value_dim, optional=True)
        one_of("residual", residual, RESIDUALS)
        one_of("data_format", data_format, ("channels_last", "channels_first", None))
        self.affinity = affinity
        self.recurrence = recurrence
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.use_bias = bool(use_bias)
        self.residual = residual
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
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
        """Height and width out of a map's shape."""
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
        key_dim = self.key_dim or max(2, channels // 8)
        value_dim = self.value_dim or channels
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
        if self.residual == "gain":
            self.gain = self._zeros("gain", ())
            self.output_bias = self._zeros("output_bias", (channels,))
        else:
            self.norm.build((None, None, channels))

    def _kernel(self, name, shape):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            autocast=False,
        )

    def _zeros(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="zeros", autocast=False)

    def _linear(self, x, kernel, bias=None, positions=None):
        """`x W + b` on a map, or on tokens of a map where its positions are given."""
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

    def project(self, value: Tensor) -> Tensor:
        """The output projection, where there is one. It commutes with every attention's sum."""
        return value if self.output_kernel is None else self._linear(value, self.output_kernel)

    def update(
        self, y: Tensor, positions: Size | None = None, training: bool | None = None
    ) -> Tensor:
        """What is added to the input: `gain * (y + bias)` or the batch norm of `y`."""
        if self.residual == "batch_norm":
            return self.norm(y, positions=positions, training=training)
        if positions is None:
            y = y + ops.cast(self.output_bias, y.dtype)
        else:
            y = spectral.add_constant(y, self.output_bias, positions)
        return y * ops.cast(self.gain, y.dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "affinity": self.affinity,
            "recurrence": self.recurrence,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "use_bias": self.use_bias,
            "residual": self.residual,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "data_format": self.data_format,
        }

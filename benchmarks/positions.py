"""What attention does not know: where a position is in the image."""

from typing import Any

import keras
from keras import ops

from keras_fsa import spectral


@keras.saving.register_keras_serializable(package="benchmarks")
class Positioned(keras.layers.Layer):
    """`attention(x + p)` with a learned low-pass map `p`, the same for all images of any size.

    The map is held by its DCT tokens `P`, which start at zero: `p = sqrt(H W) D_H P D_W^T`.

    Args:
        attention: a layer from a map to one of the same shape; None for `x + p` alone.
        frequencies: of `p`, an int.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self, attention: keras.layers.Layer | None = None, frequencies: int = 8, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.attention, self.frequencies = attention, frequencies

    @property
    def gain(self) -> keras.Variable:
        """Of the attention."""
        assert self.attention is not None
        return self.attention.gain

    def build(self, input_shape):
        shape = (self.frequencies**2, input_shape[-1])
        self.tokens = self.add_weight(name="tokens", shape=shape, initializer="zeros")
        if self.attention is not None and not self.attention.built:
            self.attention.build(input_shape)

    def call(self, x, training=None):
        _, height, width, _ = ops.shape(x)
        tokens = ops.convert_to_tensor(self.tokens)[None]
        positions = spectral.synthesis(tokens, height, width, self.frequencies, strict=False)
        x = x + positions * ops.sqrt(ops.cast(height * width, x.dtype))
        return x if self.attention is None else self.attention(x, training=training)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        attention = self.attention and keras.saving.serialize_keras_object(self.attention)
        return {**super().get_config(), "attention": attention, "frequencies": self.frequencies}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["attention"] = keras.saving.deserialize_keras_object(config["attention"])
        return cls(**config)

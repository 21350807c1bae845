"""TensorFlow's "same" padding as a layer of its own, so that a dilated copy can keep its phase."""

from typing import Any

import keras
from keras import ops

from keras_fsa.arguments import positive_int


@keras.saving.register_keras_serializable(package="keras_fsa")
class SamePadding2D(keras.layers.Layer):
    """Zeros around a map `(B, H, W, C)` for a strided convolution that pads nothing itself.

    "Same" padding of a window `k` with stride `s` on `n` positions adds `t = max(k - r, 0)` zeros,
    `r = (n - 1) mod s + 1`, of which `t // 2` come first: for 3 and 2 that is one zero in front of
    an odd size and none in front of an even one. Here `k - 1 - t // 2` zeros follow; those beyond
    `t` are never read by the strided convolution.

    At a rate `d`, the map holds the positions of the strided network `d` apart: `n` is then
    `ceil(size / d)`, and each zero counts `d` times. A convolution of stride 1 and dilation `d`
    behind it makes, at every `s d`-th position, what the strided one makes of every `d`-th.

    Args:
        window: the convolution's, an odd int.
        stride: the convolution's in the strided network, before any dilation.
        rate: distance of the strided network's positions in the map.
        **kwargs: of `keras.layers.Layer`.

    Output:
        `(B, H + (k - 1) d, W + (k - 1) d, C)`.

    Raises:
        ValueError: for an argument that is not a positive int.

    Source: TensorFlow's `tf.nn.convolution`, `padding="SAME"`.
    """

    def __init__(self, window: int, stride: int, rate: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive_int("window", window)
        positive_int("stride", stride)
        positive_int("rate", rate)
        self.window, self.stride, self.rate = window, stride, rate

    def call(self, inputs):
        _, height, width, channels = ops.shape(inputs)
        outputs = ops.pad(inputs, [(0, 0), self.zeros(height), self.zeros(width), (0, 0)])
        if not (isinstance(height, int) and isinstance(width, int)):
            # LiteRT's converter cannot tell that zeros of unknown number leave the channels alone.
            outputs = ops.reshape(outputs, (*ops.shape(outputs)[:3], channels))
        return outputs

    def zeros(self, size: Any) -> tuple[Any, Any]:
        """Before and after an axis of a map; its size is an int or a scalar tensor."""
        n = -(-size // self.rate)
        total = self.window - 1 - (n - 1) % self.stride
        # Where the stride exceeds the window, some positions are read by nobody.
        before = (total if self.window >= self.stride else ops.maximum(total, 0)) // 2
        return before * self.rate, (self.window - 1 - before) * self.rate

    def compute_output_spec(self, inputs):
        batch, height, width, channels = inputs.shape
        more = (self.window - 1) * self.rate
        height, width = (size and size + more for size in (height, width))
        return keras.KerasTensor((batch, height, width, channels), self.compute_dtype)

    def get_config(self):
        own = {"window": self.window, "stride": self.stride, "rate": self.rate}
        return {**super().get_config(), **own}

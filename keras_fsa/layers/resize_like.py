"""Resizing of a feature map to the size of another, as a layer for functional models."""

from typing import Any

import keras
from keras import ops

from keras_fsa.arguments import boolean
from keras_fsa.resize import resize_bilinear


@keras.saving.register_keras_serializable(package="keras_fsa")
class ResizeLike(keras.layers.Layer):
    """Resizes a map bilinearly to the height and width of another one, see `resize_bilinear`.

    Args:
        align_corners: True, False or None, see `keras_fsa.resize`.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: a list of the map to resize, `(B, h, w, C)`, and the one whose size it takes on,
            `(B, H, W, any)`. Sizes may be unknown when the graph is built.

    Output:
        `(B, H, W, C)`, in the compute dtype.

    Raises:
        ValueError: if `align_corners` is none of these.
    """

    def __init__(self, align_corners: bool | None = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        boolean("align_corners", align_corners, optional=True)
        self.align_corners = align_corners

    def call(self, inputs):
        x, like = inputs
        height, width = ops.shape(like)[1:3]
        return resize_bilinear(x, height, width, self.align_corners)

    def compute_output_shape(self, input_shape):
        x, like = input_shape
        return (*like[:3], x[-1])

    def get_config(self):
        return {**super().get_config(), "align_corners": self.align_corners}

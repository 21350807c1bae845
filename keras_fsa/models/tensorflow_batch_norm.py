"""Batch norm as a single TensorFlow operation: the speed path for channels-last maps.

Keras writes batch norm as a dozen passes over the map, half of them for the gradient; in a training
step on a CPU they take as long as the convolutions. TensorFlow's own operation takes two or three,
and in inference TensorFlow can fuse it with the convolution before it.
"""

import types
from typing import Any

import keras
from keras import ops

from keras_fsa.layers.batch_normalization import move_statistics

LEAST_EPSILON = 1e-5
"""The least epsilon that cuDNN accepts."""


def fuse_normalization(layer: keras.Layer) -> None:
    """Let a built layer call TensorFlow's fused operation if it is a batch norm.

    Values differ at most by rounding. Saved files are unaffected. Batch norms that are masked,
    synchronised or renormalised, or whose maps are not `(B, H, W, C)`, stay as they are.

    Args:
        layer: any; changed in place.
    """
    if (
        type(layer) is keras.layers.BatchNormalization
        and not layer.renorm
        and layer.epsilon >= LEAST_EPSILON
    ):
        layer.call = types.MethodType(_normalize, layer)


def _normalize(
    self: keras.layers.BatchNormalization, inputs: Any, training: Any = None, mask: Any = None
) -> Any:
    """`BatchNormalization.call` in one operation; the neutral twin is Keras' own."""
    import tensorflow as tf

    x = ops.convert_to_tensor(inputs)
    learns = bool(training) and self.trainable
    if (
        mask is not None
        or self.axis not in (-1, 3)
        or x.shape.rank != 4
        or x.dtype not in (tf.float32, tf.bfloat16, tf.float16)
        or (learns and self.synchronized)
    ):
        return keras.layers.BatchNormalization.call(self, inputs, training=training, mask=mask)
    mean, variance = (
        ops.cast(moving, "float32") for moving in (self.moving_mean, self.moving_variance)
    )
    outputs, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=ops.cast(self.gamma, "float32") if self.scale else tf.ones_like(mean),
        offset=ops.cast(self.beta, "float32") if self.center else tf.zeros_like(mean),
        mean=mean[:0] if learns else mean,
        variance=variance[:0] if learns else variance,
        epsilon=self.epsilon,
        is_training=learns,
    )
    if learns:
        # Keras gathers the variance that divides by the count, TensorFlow by one less.
        count = ops.cast(ops.prod(ops.shape(x)[:3]), "float32")
        move_statistics(self, batch_mean, batch_variance * (ops.maximum(count - 1, 1) / count))
    if training:
        # TensorFlow would join it with a ReLU after it, which makes 0 of NaN: a training that has
        # failed would show a finite loss.
        outputs = tf.ensure_shape(outputs, x.shape)
    return ops.cast(outputs, self.compute_dtype)

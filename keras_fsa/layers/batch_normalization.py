"""Batch normalisation of a feature map that is given by its tokens."""

import keras
from keras import ops

from keras_fsa import spectral
from keras_fsa.types import Tensor


def move_statistics(layer: keras.layers.BatchNormalization, mean: Tensor, variance: Tensor) -> None:
    """Update the moving statistics of a batch norm with those of a batch."""
    for moving, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        old = ops.cast(moving, value.dtype)
        moving.assign(old * layer.momentum + value * (1 - layer.momentum))


@keras.saving.register_keras_serializable(package="keras_fsa")
class TokenBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation that also works on tokens, as if on the map they represent.

    `y = scale * (x - mean) / sqrt(variance + epsilon) + shift` for each channel. On tokens, the
    batch's mean and variance come from `spectral.moments` and the shift is added to the constant
    token, so the map need never be formed.

    It differs from Keras' layer in one more respect: the moving variance accumulates the unbiased
    variance, as in PyTorch and in the authors' checkpoints. (PyTorch's momentum 0.1 is 0.9 here.)

    Call arguments:
        x: tokens `(B, T, C)`, the constant one first, if `positions` is given; else a map whose
            last axis is the channels.
        positions: number of positions, `H * W`, of the map that the tokens represent.
        training: whether to use the batch's statistics and update the layer's. As in Keras, a layer
            with `trainable=False` never does.
    """

    def build(self, input_shape):
        super().build(input_shape)
        # Tokens or a map: the rank is the caller's to choose.
        self.input_spec = None

    def call(self, x, positions=None, training=None):
        dtype = x.dtype
        if training and self.trainable:
            mean, variance = self._batch_moments(x, positions)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        scale = ops.cast(self.gamma, dtype) * ops.rsqrt(ops.cast(variance, dtype) + self.epsilon)
        shift = ops.cast(self.beta, dtype) - ops.cast(mean, dtype) * scale
        if positions is None:
            return x * scale + shift
        return spectral.add_constant(x * scale, shift, positions)

    def _batch_moments(self, x, positions):
        if positions is None:
            axes = tuple(range(len(x.shape) - 1))
            count = ops.cast(ops.size(x) // x.shape[-1], x.dtype)
            mean = ops.sum(x, axes) / count
            variance = ops.sum(ops.square(x - mean), axes) / count
        else:
            count = ops.cast(ops.shape(x)[0] * positions, x.dtype)
            mean, variance = spectral.moments(x, positions)
        unbiased = variance * count / ops.maximum(count - 1, 1)
        move_statistics(self, mean, unbiased)
        return mean, variance

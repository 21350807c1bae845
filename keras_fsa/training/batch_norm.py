"""What batch norm does in training: use its own statistics, or those of the whole batch."""

import contextlib
from collections.abc import Iterator

import keras

from keras_fsa.layers.batch_normalization import TokenBatchNormalization


def batch_norm_layers(model: keras.Model) -> list[keras.Layer]:
    """All batch norm layers of a model, however deeply nested."""
    found = (keras.layers.BatchNormalization,)
    # Keras makes public only the layers of models, not those in layers, as in attention's residual.
    return [layer for layer in model._flatten_layers() if isinstance(layer, found)]


def use_moving_statistics(model: keras.Model, enabled: bool = True) -> None:
    """Let batch norm normalise by its moving statistics in training; scale and shift still learn.

    With small batches and a pretrained backbone, the statistics of ImageNet serve better than those
    of eight crops. Keras' `layer.trainable = False` alone would freeze scale and shift too; layers
    frozen by it stay so. No image then depends on the others of its batch, so several devices agree
    with one.

    Call it before `compile`. `trainable` is part of a layer's configuration: save the model within
    `plain` if others are to train it.

    Args:
        model: any Keras model, changed in place.
        enabled: False for the statistics of each batch, Keras' default.
    """
    for layer in batch_norm_layers(model):
        _set_moving(layer, enabled)


def synchronize(model: keras.Model, enabled: bool = True) -> None:
    """Let batch norm use the statistics of the batches of all devices together.

    On TensorFlow that is the layers' `synchronized`. On JAX there is nothing to do: a compiled step
    sees one batch, wherever its parts are. Save the model within `plain`: other backends do not
    load synchronised layers.

    Args:
        model: any Keras model, changed in place.
        enabled: False to undo it.

    Raises:
        ValueError: under torch, where Keras' batch norm cannot do it; and on TensorFlow for the
            batch norm of tokens.
    """
    backend = keras.backend.backend()
    layers = batch_norm_layers(model)
    tokens = [layer for layer in layers if isinstance(layer, TokenBatchNormalization)]
    if enabled and layers and (backend == "torch" or (backend == "tensorflow" and tokens)):
        kind = "that of tokens" if backend != "torch" else "Keras'"
        raise ValueError(
            "Batch norm on several devices must use the statistics of all of them, which "
            f'{kind} cannot. Received: batch_norm="batch" under the {backend} backend. Set '
            'batch_norm="moving", use one device, or another backend.'
        )
    if backend == "tensorflow":
        for layer in layers:
            layer.synchronized = enabled


@contextlib.contextmanager
def plain(model: keras.Model) -> Iterator[None]:
    """While the block runs, batch norm is as Keras creates it: trainable, not synchronised.

    A model that is saved in it loads on every backend and trains as usual. What is frozen stays so.

    Args:
        model: any Keras model. It is as before when the block ends.
    """
    layers = batch_norm_layers(model)
    before = [(layer.trainable, getattr(layer, "synchronized", False)) for layer in layers]
    try:
        for layer in layers:
            _set(layer, True, False)
        yield
    finally:
        for layer, state in zip(layers, before, strict=True):
            _set(layer, *state)


def _set(layer, trainable, synchronized):
    if layer.trainable != trainable:
        _set_moving(layer, not trainable)
    if getattr(layer, "synchronized", synchronized) != synchronized:
        layer.synchronized = synchronized


def _set_moving(layer, enabled):
    learned = [variable for variable in (layer.gamma, layer.beta) if variable is not None]
    if not layer.trainable and learned and not any(v.trainable for v in learned):
        return  # Frozen as a whole, by `trainable = False` of the layer or of what it is part of.
    layer.trainable = not enabled
    for variable in learned:
        variable.trainable = True

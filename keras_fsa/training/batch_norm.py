"""What batch norm does in training: its own statistics, or those of the whole batch."""

import keras

from keras_fsa.layers.batch_normalization import TokenBatchNormalization


def batch_norm_layers(model: keras.Model) -> list[keras.Layer]:
    """All batch norm layers of a model, however deep."""
    found = (keras.layers.BatchNormalization,)
    # Keras makes public only the layers of models, not those in layers, as in attention's residual.
    return [layer for layer in model._flatten_layers() if isinstance(layer, found)]


def use_moving_statistics(model: keras.Model, enabled: bool = True) -> None:
    """Let batch norm normalise by its moving statistics in training, while scale and shift learn.

    With small batches, and from a pretrained backbone, the statistics of ImageNet serve better than
    those of eight crops. Keras' `layer.trainable = False` alone would freeze scale and shift too.
    Nothing then depends on the other pictures of the batch, so several devices agree with one.

    Call it before `compile`, and undo it before the model is saved for others to train:
    `trainable` is part of a layer's configuration.

    Args:
        model: any Keras model, changed in place.
        enabled: False for the statistics of each batch, Keras' default.
    """
    for layer in batch_norm_layers(model):
        layer.trainable = not enabled
        for variable in (layer.gamma, layer.beta):
            if variable is not None:
                variable.trainable = True


def synchronize(model: keras.Model, enabled: bool = True) -> None:
    """Let batch norm take the statistics of the batches of all devices together.

    On TensorFlow that is the layers' `synchronized`. On JAX there is nothing to do: a compiled step
    sees one batch, wherever its parts lie. Undo it before the model is saved: other backends do not
    load such layers.

    Args:
        model: any Keras model, changed in place.
        enabled: False to undo it.

    Raises:
        ValueError: under torch, where Keras' batch norm cannot; and on TensorFlow for the batch
            norm of tokens.
    """
    backend = keras.backend.backend()
    layers = batch_norm_layers(model)
    tokens = [layer for layer in layers if isinstance(layer, TokenBatchNormalization)]
    if enabled and layers and (backend == "torch" or (backend == "tensorflow" and tokens)):
        raise ValueError(
            "Batch norm on several devices must have the statistics of all of them, and "
            f"{'that of tokens' if backend != 'torch' else 'Keras'} has not. Received: "
            f'batch_norm="batch" under the {backend} backend. Set batch_norm="moving", use one '
            "device, or another backend."
        )
    if backend == "tensorflow":
        for layer in layers:
            layer.synchronized = enabled

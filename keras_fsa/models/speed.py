"""The speed paths of the engine that is used, each a file beside this one."""

from collections.abc import Callable

import keras

from keras_fsa.models.jax_products import multiply_positions
from keras_fsa.models.torch_layout import avoid_copies
from keras_fsa.models.torch_memory import free_early

PATHS: dict[str, Callable[[keras.Layer], None]] = {
    "torch": avoid_copies,
    "jax": multiply_positions,
}
"""What an engine does for a single layer."""


def use_speed_paths(model: keras.Model) -> None:
    """Let a built model run by its engine's speed paths: the same values, up to rounding."""
    path = PATHS.get(keras.backend.backend())
    if path is not None:
        # Keras makes public only the layers of models, not those in layers.
        for layer in model._flatten_layers():
            path(layer)
    free_early(model)

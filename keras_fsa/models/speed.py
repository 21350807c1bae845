"""The speed paths of the engine that is used. A new one gets a line here.

Each is a file beside this one, and does nothing on other engines.
"""

import keras

from keras_fsa.models.jax_products import multiply_positions
from keras_fsa.models.torch_layout import avoid_copies
from keras_fsa.models.torch_memory import free_early

PATHS = (avoid_copies, free_early, multiply_positions)


def use_speed_paths(model: keras.Model) -> None:
    """Let a built model run by its engine's speed paths: the same values, up to rounding."""
    for path in PATHS:
        path(model)

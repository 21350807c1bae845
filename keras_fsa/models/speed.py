"""The speed paths of the current engine, each in a file beside this one."""

import contextlib
from collections.abc import Callable, Iterator

import keras

from keras_fsa.models.jax_depthwise import add_shifted
from keras_fsa.models.jax_products import multiply_positions
from keras_fsa.models.tensorflow_batch_norm import fuse_normalization
from keras_fsa.models.torch_layout import avoid_copies
from keras_fsa.models.torch_memory import free_early

PATHS: dict[str, tuple[Callable[[keras.Layer], None], ...]] = {
    "torch": (avoid_copies,),
    "tensorflow": (fuse_normalization,),
    "jax": (multiply_positions, add_shifted),
}
"""What each engine does for a single layer."""


def use_speed_paths(model: keras.Model) -> None:
    """Let a built model use its engine's speed paths: the same values, up to rounding."""
    paths = PATHS.get(keras.backend.backend(), ())
    # Keras makes public only the layers of models, not those in layers.
    for layer in model._flatten_layers() if paths else ():
        for path in paths:
            path(layer)
    free_early(model)


@contextlib.contextmanager
def neutral_twins(model: keras.Model) -> Iterator[None]:
    """In this block, a model's layers call as Keras' own do, for a file that others will read.

    The speed paths, such as a sum of shifted maps, would hide a convolution from its reader.
    """
    replaced = [layer for layer in model._flatten_layers() if "call" in vars(layer)]
    calls = [vars(layer).pop("call") for layer in replaced]
    try:
        yield
    finally:
        for layer, call in zip(replaced, calls, strict=True):
            layer.call = call

"""Frequency self-attention and FsaNet for Keras 3.

The names listed in this module are public, and so are those listed in its public submodules;
`docs/api.txt` holds the whole public API. Submodules are imported when they are first used.
"""

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    _engines = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
    raise ImportError(
        "Keras must find the engine that it is set to. Received: "
        f"KERAS_BACKEND={os.environ.get('KERAS_BACKEND', '')!r} ({error}), with "
        f"{' and '.join(_engines) or 'no engine'} installed. Set the variable KERAS_BACKEND to an "
        'engine that is installed, or run: pip install "keras_fsa[tensorflow]", [jax] or [torch].'
    ) from error

# Files of trained models name what these register.
from keras_fsa import affinities, layers, losses, metrics, spectral, training
from keras_fsa.checkpoints import load_pytorch_weights
from keras_fsa.compilation import xla_scope
from keras_fsa.models.folding import fold_batch_norm
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.models.presets import PRESETS
from keras_fsa.registration import register_with_keras_hub
from keras_fsa.segmenter import Segmenter
from keras_fsa.sliding_window import SlidingWindow
from keras_fsa.truncation import to_frequency, to_spatial

if TYPE_CHECKING:
    from keras_fsa import (
        attention_map,
        datasets,
        energy,
        flops,
        hub,
        images,
        inference,
        large,
        portable,
        visualize,
    )

__version__ = "0.1.0"
__all__ = [
    "PRESETS",
    "FsaNet",
    "Segmenter",
    "SlidingWindow",
    "affinities",
    "attention_map",
    "datasets",
    "energy",
    "flops",
    "fold_batch_norm",
    "hub",
    "images",
    "inference",
    "large",
    "layers",
    "load_pytorch_weights",
    "losses",
    "metrics",
    "portable",
    "spectral",
    "to_frequency",
    "to_spatial",
    "training",
    "visualize",
    "xla_scope",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_keras_hub()

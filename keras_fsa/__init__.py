"""Frequency self-attention and FsaNet for Keras 3."""

from keras_fsa import layers, spectral
from keras_fsa import training as _training  # noqa: F401 (files of trained models name its SGD)
from keras_fsa.checkpoints import load_pytorch_weights
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.models.presets import PRESETS
from keras_fsa.sliding_window import SlidingWindow
from keras_fsa.spectral import xla_scope
from keras_fsa.truncation import to_frequency, to_spatial

__version__ = "0.1.0"
__all__ = [
    "PRESETS",
    "FsaNet",
    "SlidingWindow",
    "layers",
    "load_pytorch_weights",
    "spectral",
    "to_frequency",
    "to_spatial",
    "xla_scope",
]

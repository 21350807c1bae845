"""Frequency self-attention and FsaNet for Keras 3."""

from keras_fsa import layers, spectral
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.truncation import to_frequency, to_spatial

__version__ = "0.1.0"
__all__ = ["FsaNet", "layers", "spectral", "to_frequency", "to_spatial"]

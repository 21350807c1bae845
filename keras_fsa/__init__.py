"""Frequency self-attention and FsaNet for Keras 3."""

from keras_fsa import layers, spectral
from keras_fsa.models.fsanet import FsaNet

__version__ = "0.1.0"
__all__ = ["FsaNet", "layers", "spectral"]

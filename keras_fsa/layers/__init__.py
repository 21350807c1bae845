"""Layers: attention between frequencies, and between positions."""

from keras_fsa.layers.frequency_self_attention import FrequencySelfAttention
from keras_fsa.layers.spatial_self_attention import SpatialSelfAttention

__all__ = ["FrequencySelfAttention", "SpatialSelfAttention"]

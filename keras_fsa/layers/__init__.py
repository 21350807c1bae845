"""Layers: attention between frequencies or between positions; a separate process for each band."""

from keras_fsa.layers.frequency_bands import ChannelGain, FrequencyBands
from keras_fsa.layers.frequency_self_attention import FrequencySelfAttention
from keras_fsa.layers.spatial_self_attention import SpatialSelfAttention

__all__ = ["ChannelGain", "FrequencyBands", "FrequencySelfAttention", "SpatialSelfAttention"]

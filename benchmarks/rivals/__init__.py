"""What users could take instead of frequency self-attention, one file for each idea.

Every method is a layer from a map `(B, H, W, C)` to one of the same shape, `x + residual(y)`, which
starts as the identity, and is written for speed with large products and no loop over positions.
Each counts the products and convolutions it does as `keras_fsa.flops` does: `flops(height, width)`,
for one image.

Linear maps have no bias unless the source has one. There is one head (but for fused kernels), keys
are `K = C // 8` wide and values `V = C`, so that no projection follows where none is needed for the
formula. Positional encodings and what is tied to one size of the map are left out.
"""

from benchmarks.rivals.base import Attention, Copy
from benchmarks.rivals.bases import ExpectationMaximizationAttention, ExternalAttention
from benchmarks.rivals.dense import DenseFrequencyAttention
from benchmarks.rivals.factored import EfficientAttention, FocusedLinearAttention
from benchmarks.rivals.global_filter import GlobalFilter
from benchmarks.rivals.pairs import CrissCrossAttention, FusedAttention, RegularAttention
from benchmarks.rivals.pooled import (
    AgentAttention,
    AsymmetricPyramidAttention,
    LowResolutionAttention,
    SpatialReductionAttention,
)
from benchmarks.rivals.pyramids import AtrousSpatialPyramidPooling, PyramidPooling

__all__ = [
    "AgentAttention",
    "AsymmetricPyramidAttention",
    "AtrousSpatialPyramidPooling",
    "Attention",
    "Copy",
    "CrissCrossAttention",
    "DenseFrequencyAttention",
    "EfficientAttention",
    "ExpectationMaximizationAttention",
    "ExternalAttention",
    "FocusedLinearAttention",
    "FusedAttention",
    "GlobalFilter",
    "LowResolutionAttention",
    "PyramidPooling",
    "RegularAttention",
    "SpatialReductionAttention",
]

"""What is compared, by name: frequency self-attention, what it replaces, and its rivals."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from benchmarks import rivals
from keras_fsa.arguments import one_of
from keras_fsa.flops import attention_flops
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.types import DType


def _ours(affinity, recurrence=1):
    return lambda frequencies, **options: FrequencySelfAttention(
        frequencies, affinity, recurrence, data_format="channels_last", **options
    )


def _rival(kind):
    return lambda frequencies, **options: kind(**options)


METHODS: dict[str, Callable[..., keras.Layer]] = {
    "copy": lambda frequencies, residual, **options: rivals.Copy(**options),
    "regular": _rival(rivals.RegularAttention),
    "fused": _rival(rivals.FusedAttention),
    "dense": lambda frequencies, **options: rivals.DenseFrequencyAttention(frequencies, **options),
    "dot_product": _ours("dot_product"),
    "dot_product_r2": _ours("dot_product", 2),
    "dot_product_r4": _ours("dot_product", 4),
    "linear_softmax": _ours("linear_softmax"),
    "linear_softmax_r2": _ours("linear_softmax", 2),
    "relu_linear": _ours("relu_linear"),
    "criss_cross": _rival(rivals.CrissCrossAttention),
    "ema": _rival(rivals.ExpectationMaximizationAttention),
    "efficient": _rival(rivals.EfficientAttention),
    "apnb": _rival(rivals.AsymmetricPyramidAttention),
    "relu_linear_positions": lambda frequencies, **options: SpatialSelfAttention(
        "relu_linear", data_format="channels_last", **options
    ),
    "focused": _rival(rivals.FocusedLinearAttention),
    "agent": _rival(rivals.AgentAttention),
    "spatial_reduction": _rival(rivals.SpatialReductionAttention),
    "low_resolution": _rival(rivals.LowResolutionAttention),
    "global_filter": _rival(rivals.GlobalFilter),
    "external": _rival(rivals.ExternalAttention),
    "aspp": _rival(rivals.AtrousSpatialPyramidPooling),
    "pyramid_pooling": _rival(rivals.PyramidPooling),
}
# The type in which fused kernels are at their best, for them and beside them for ours.
HALF = "mixed_bfloat16"
HALF_METHODS = {"fused_bfloat16": "fused", "dot_product_bfloat16": "dot_product"}
ALL_METHODS = (*METHODS, *HALF_METHODS)


class TrainingStep(keras.layers.Layer):
    """A scalar out of all that a model gives in training."""

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def call(self, x):
        outputs = keras.tree.flatten(self.model(x, training=True))
        return sum(ops.mean(ops.square(y)) for y in outputs)


def _make_model(name, shape, training):
    # "fsanet:resnet101" and "fsanet_without_attention:resnet101".
    kind, backbone = name.split(":")
    attention = None if kind.endswith("without_attention") else "frequency"
    model = FsaNet(19, backbone=backbone, attention=attention)
    if not training:
        return model
    step = TrainingStep(model)
    step.build(shape)
    return step


def make_layer(
    name: str, shape: tuple, frequencies: int = 8, dtype: DType = "float32", training: bool = False
) -> keras.Layer:
    """A built layer of a method, with random weights that do not depend on the backend.

    Args:
        name: one of `ALL_METHODS`, or `"fsanet:BACKBONE"`, `"fsanet_without_attention:BACKBONE"`
            for a whole model, which in training is a `TrainingStep`.
        shape: of the map, `(B, H, W, C)`.
        frequencies: of the frequency methods.
        dtype: dtype policy. Methods named `..._bfloat16` have their own.

    Raises:
        ValueError: for an unknown name.
    """
    if name.startswith("fsanet"):
        return _make_model(name, shape, training)
    one_of("method", name, ALL_METHODS)
    if name in HALF_METHODS:
        name, dtype = HALF_METHODS[name], HALF
    layer = METHODS[name](frequencies, residual="gain", dtype=dtype)
    layer.build(shape)
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        shape = tuple(weight.shape)
        fan_in = math.prod(shape[:-1]) if len(shape) > 1 else sum(shape)
        # The gain has no shape. None may profit from one of zero.
        weight.assign(rng.standard_normal(shape) * fan_in**-0.5 if shape else 0.5)
    return layer


def flops(layer: keras.Layer, height: int, width: int) -> int:
    """Operations of a forward pass for one image: see `keras_fsa.flops`."""
    if isinstance(layer, SelfAttention):
        return attention_flops(layer, height, width)
    return layer.flops(height, width)


def memory_of_regular(shape: tuple, itemsize: int = 4) -> int:
    """Bytes of regular attention that holds its table of pairs once, and q, k, v and the output.

    Backends may take more: a softmax that is not done in place holds a second table.
    """
    batch, height, width, channels = shape
    n = height * width
    key_dim = max(2, channels // 8)
    return batch * itemsize * n * (n + 2 * key_dim + 2 * channels)

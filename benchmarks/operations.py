"""Operations of a network, and what they say about the time of a training: an estimate.

A multiplication with its addition counts as two. Counted are convolutions and products of matrices;
what runs over elements (norms, activations, resizing) is left out, as is usual. A training step
counts as three forward passes: the backward pass multiplies each layer's matrices twice, once for
the gradient of its input and once for that of its weights.
"""

import math
from dataclasses import dataclass
from typing import Any

import keras

from keras_fsa import FsaNet
from keras_fsa.flops import attention_flops
from keras_fsa.graphs import outputs_of
from keras_fsa.layers.self_attention import SelfAttention

TRAINING = 3
"""Forward passes that a training step counts as."""

RESNET50 = 2 * 4.089e9
"""Operations of ResNet50 v1.5 for an image of 224 x 224, as torchvision lists them."""


@dataclass(frozen=True)
class Gpus:
    """Some GPUs, and how fast a convolutional network was seen to train on them."""

    name: str
    count: int
    precision: str
    peak: float
    """Operations a second of all of them, by the data sheet: dense products."""
    images: float
    """Images of 224 x 224 a second in the training of ResNet50."""

    @property
    def efficiency(self) -> float:
        """Share of the peak that the training of ResNet50 reached."""
        return TRAINING * RESNET50 * self.images / self.peak


# Peaks: NVIDIA's data sheet of the A100. Images: "Training performance: NVIDIA DGX A100" in
# PyTorch/Classification/ConvNets/resnet50v1.5/README.md of github.com/NVIDIA/DeepLearningExamples.
GPUS = (
    Gpus("A100", 1, "TF32", 156e12, 938),
    Gpus("A100", 8, "TF32", 8 * 156e12, 7248),
    Gpus("A100", 1, "mixed precision", 312e12, 2470),
    Gpus("A100", 8, "mixed precision", 8 * 312e12, 16621),
)


def training_seconds(operations: float, gpus: Gpus) -> float:
    """Seconds in which the GPUs do so many operations if they are as efficient as there."""
    return operations / (gpus.peak * gpus.efficiency)


def forward_operations(model: FsaNet, size: tuple[int, int]) -> int:
    """Operations of a forward pass of one image in training, the auxiliary head included.

    Args:
        model: an `FsaNet`.
        size: `(height, width)` of the image.
    """
    image = keras.KerasTensor((1, *size, model.image_shape[-1]), model.compute_dtype)
    total, features = network_operations(model.backbone, image)
    for head in (model.head, model.auxiliary_head):
        if head is None:
            continue
        if isinstance(head.input, dict):
            given = {stage: features[stage] for stage in head.input}
        else:
            given = features[head.input.name]
        total += network_operations(head, given)[0]
    return total


def network_operations(model: keras.Model, inputs: Any) -> tuple[int, Any]:
    """Operations of a functional model's layers, and what it gives.

    Args:
        model: a model whose layers are not models themselves.
        inputs: its input, a `keras.KerasTensor` of batch 1 or a dict of such.

    Raises:
        ValueError: for a layer with a kernel that is no convolution.
    """
    layers = [x for x in model.layers if hasattr(x, "kernel") or isinstance(x, SelfAttention)]
    maps, found = outputs_of(layers, model, inputs)
    operations = (_operations_of(layer, own) for layer, (own,) in zip(layers, maps, strict=True))
    return sum(operations), found


def _operations_of(layer, output):
    """Operations of a layer that gives a map of this shape."""
    if isinstance(layer, SelfAttention):
        return attention_flops(layer, *output.shape[1:3])
    if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
        # (height, width, input channels, output channels or channels for each).
        return 2 * math.prod(output.shape[1:3]) * math.prod(layer.kernel.shape)
    raise ValueError(f"Operations are known of convolutions. Received: {layer!r}. Add its count.")

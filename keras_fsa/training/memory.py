"""What a training step takes of memory, before it starts."""

import math

import keras

from keras_fsa.arguments import integer, positive_ints
from keras_fsa.graphs import calls, is_graph, specs_of
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.models.heads import seen_by_head


def step_memory(model: FsaNet, size: tuple[int, int], batch: int) -> dict[str, int]:
    """About what a training step takes at its peak, in bytes, from the shapes alone.

        peak = weights + max(maps, gradients)

    Each layer's output is kept until its gradient is known, and then given back while gradients of
    the weights gather, so that the two share their memory. Engines fuse layers, which saves some of
    it, and take working memory for convolutions.

    Measured on a CPU with images of 97 x 129, at batches of 1 and 4: under torch the peak was 1.0
    to 1.3 times this, with ResNet18, ResNet50 and EfficientNet-Lite0; by XLA's plan under JAX 1.1
    to 1.3 times, with ResNet18 and EfficientNet-Lite0.

    Maps of a frozen backbone are needed by no gradient: torch drops them before those of the head
    come, a compiler earlier.

    Args:
        model: a compiled `FsaNet`.
        size: `(height, width)` of the crops.
        batch: number of crops in a step.

    Returns:
        `"weights"`: of the variables and the optimizer's state; `"gradients"`; `"maps"`: of all
        layers' outputs for a batch; `"peak"`.

    Raises:
        ValueError: for sizes that are not positive ints.
    """
    positive_ints("size", size, 2)
    integer("batch", batch)
    model.optimizer.build(model.trainable_variables)
    weights = sum(map(_bytes, [*model.variables, *model.optimizer.variables]))
    gradients = sum(map(_bytes, model.trainable_variables))
    images = keras.KerasTensor((batch, *size, model.image_shape[-1]), model.compute_dtype)
    encoder, features = _outputs(model.backbone, images)
    maps = _outputs(model.head, seen_by_head(features, model.low_level))[0]
    if model.auxiliary_head is not None:
        maps += _outputs(model.auxiliary_head, features["stage4"])[0]
    logits = 4 * batch * math.prod(size) * model.num_classes
    # The logits at the size of the images, and their softmax or sigmoid.
    maps += 2 * logits * (1 if model.auxiliary_head is None else 2)
    # No gradient wants the maps of a frozen backbone: they are gone before those of the head come.
    maps = maps + encoder if model.backbone.trainable_variables else max(maps, encoder)
    return {
        "weights": weights,
        "gradients": gradients,
        "maps": maps,
        "peak": weights + max(maps, gradients),
    }


def _outputs(model, inputs):
    """Bytes of all that is made in a functional model and its nested ones, and what it gives."""
    made = [call for call in calls(model) if call.input_tensors]
    nested = [call for call in made if is_graph(call.operation)]
    plain = [call.outputs for call in made if not is_graph(call.operation)]
    read = [call.input_tensors for call in nested]
    (maps, given), found = specs_of([plain, read], model, inputs)
    total = sum(map(_bytes, keras.tree.flatten(maps)))
    for call, inner in zip(nested, given, strict=True):
        # Its own tensors, and of a Sequential, which is no graph, too.
        graph = keras.Model(call.operation.inputs, call.operation.outputs)
        total += _outputs(graph, inner)[0]
    return total, found


def _bytes(tensor):
    return math.prod(tensor.shape) * (2 if "16" in str(tensor.dtype) else 4)

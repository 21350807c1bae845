"""What a training step needs of memory at least, before it starts."""

import math

import keras

from keras_fsa.arguments import integer, positive_ints
from keras_fsa.models.fsanet import FsaNet


def least_memory(model: FsaNet, size: tuple[int, int], batch: int) -> dict[str, int]:
    """A lower bound of the memory of a training step, in bytes, from the shapes alone.

    Engines keep each layer's output for the gradient, and may fuse layers, which saves some of it,
    or take working memory for convolutions, which can double it. So this says what cannot fit; what
    does fit, a first step shows.

    Args:
        model: a compiled `FsaNet`.
        size: `(height, width)` of the crops.
        batch: number of crops in a step.

    Returns:
        `"weights"`: of the variables, their gradients and the optimizer's state; `"maps"`: of all
        layers' outputs for a batch.

    Raises:
        ValueError: for sizes that are not positive ints.
    """
    positive_ints("size", size, 2)
    integer("batch", batch)
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.trainable_variables, *model.optimizer.variables]
    images = keras.KerasTensor((batch, *size, model.image_shape[-1]), model.compute_dtype)
    maps, features = _outputs(model.backbone, images)
    heads = [(model.head, model.head.input), (model.auxiliary_head, {"stage4": None})]
    for head, inputs in heads:
        if head is None:
            continue
        names = list(inputs) if isinstance(inputs, dict) else ["stage5"]
        given = {name: features[name] for name in names}
        maps += _outputs(head, given if len(given) > 1 else given[names[0]])[0]
    logits = 4 * batch * math.prod(size) * model.num_classes
    # The logits at the size of the images, and their softmax or sigmoid.
    maps += 2 * logits * (1 if model.auxiliary_head is None else 2)
    return {"weights": sum(map(_bytes, variables)), "maps": maps}


def _outputs(model, inputs):
    """Bytes of all outputs in a functional model, and what it gives."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    every = keras.Model(model.input, [model.output, [layer.output for layer in layers]])
    found, maps = every.compute_output_spec(inputs)
    return sum(map(_bytes, keras.tree.flatten(maps))), found


def _bytes(tensor):
    return math.prod(tensor.shape) * (2 if "16" in str(tensor.dtype) else 4)

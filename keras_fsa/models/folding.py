"""Batch normalisation folded into the convolution before it, for inference.

A convolution is linear, and so is batch norm with its moving statistics:

    y = gamma (conv(x, K) + b - mean) / sqrt(variance + epsilon) + beta
      = conv(x, s K) + s (b - mean) + beta

with `s = gamma / sqrt(variance + epsilon)` for each output channel. So the layer is removed, and
nothing is computed in its place.
"""

from collections import Counter
from typing import Any

import keras
import numpy as np

from keras_fsa.graphs import calls, is_graph, maker, uncompiled
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.weights import copy_weights


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """A copy of a trained model for inference, with batch norms folded into convolutions.

    A `BatchNormalization` over the channels is folded if its only input is the output of a `Conv2D`
    or `DepthwiseConv2D` without activation that nothing else reads, and both layers compute in the
    same dtype. Other batch norms stay as they are: before a convolution, after padding, in shared
    layers, inside an attention layer or a subclassed model. Padding of the convolution, strides,
    dilations and biases do not matter.

    Args:
        model: an `FsaNet`, or a functional or sequential Keras model.

    Returns:
        For an `FsaNet`, an `FsaNet` without auxiliary head; otherwise a functional model. It is not
        compiled, equals `model` in inference up to the rounding of its dtype, and can be saved and
        exported. To train further, keep the original.

    Raises:
        ValueError: for anything else, and for a layer that cannot be recreated from its config.

    Source: Jacob et al., arXiv:1712.05877, section 3.2.
    """
    if isinstance(model, FsaNet):
        return _fold_fsanet(model)
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    if not is_graph(model) or isinstance(model, keras.Sequential):
        raise ValueError(
            "`model` must be an FsaNet, or a functional or built sequential Keras model. Received: "
            f"model={model!r}. Fold the functional parts of a subclassed model one by one."
        )
    return _fold_functional(model)


def _fold_fsanet(model):
    # First, since `get_config` does not say which layer it cannot describe.
    parts = {"backbone": _fold_functional(model.backbone), "head": _fold_functional(model.head)}
    if isinstance(model.attention, keras.Layer) and model.attention_layer() is not None:
        parts["attention"] = parts["head"].get_layer(model.attention_layer().name)
    folded = FsaNet.from_config({**model.get_config(), **parts, "auxiliary_loss_weight": 0})
    folded.normalize.set_weights(model.normalize.get_weights())
    return folded


def _fold_functional(model):
    if _is_whole(model):
        copy = _copy(model)
        copy_weights(model, copy)
        return copy
    model = uncompiled(model)
    pairs = _foldable(model)
    convolutions = {convolution.name for convolution in pairs.values()}
    copies = {}

    def clone(layer):
        if not isinstance(layer, keras.Layer) or isinstance(layer, keras.layers.InputLayer):
            return layer
        if not _is_whole(layer):
            return fold_batch_norm(layer)
        changes: dict[str, Any] = {}
        if layer.name in convolutions:
            changes["use_bias"] = True
            if getattr(layer, "lora_rank", None):
                changes["lora_rank"] = None  # what it learned is in the kernel then
        copies[layer.name] = _copy(layer, **changes)
        return copies[layer.name]

    def call(layer, *args, **kwargs):
        return args[0] if layer.name in pairs else layer(*args, **kwargs)

    inputs = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name), model.input
    )
    folded = keras.models.clone_model(
        model, input_tensors=inputs, clone_function=clone, call_function=call
    )
    for name in copies.keys() - pairs.keys() - convolutions:
        copy_weights(model.get_layer(name), copies[name])
    for name, convolution in pairs.items():
        weights = _folded_weights(convolution, model.get_layer(name))
        copies[convolution.name].set_weights(weights)
    return folded


def _is_whole(layer):
    """Whether it is copied in one piece, and not layer by layer.

    A model that is built by its class, like KerasHub's, may have layers that cannot be recreated
    from their configs.
    """
    if isinstance(layer, FsaNet):
        return False
    if not is_graph(layer):
        return True
    by_its_class = not type(layer).get_config.__module__.startswith("keras.")
    norm = keras.layers.BatchNormalization
    return by_its_class and not any(type(inner) is norm for inner in layer._flatten_layers())


def _copy(layer, **changes):
    """A layer of the same configuration, except for the changes."""
    try:
        return type(layer).from_config({**layer.get_config(), **changes})
    except (NotImplementedError, TypeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            "`model` must hold layers that can be made again from their configuration. Received: "
            f"layer={layer.name!r}, a {type(layer).__name__} ({reason[0]}). Give its class a "
            "`get_config` of all that its constructor takes."
        ) from error


def _foldable(model):
    """The convolution before each batch norm that can be folded, by the batch norm's name."""
    graph = calls(model)
    outputs = keras.tree.flatten(model.output)
    readers = Counter(id(tensor) for call in graph for tensor in call.input_tensors)
    readers.update(id(tensor) for tensor in outputs)
    times = Counter(id(call.operation) for call in graph)
    pairs = {}
    for call in graph:
        norm = call.operation
        if type(norm) is not keras.layers.BatchNormalization or times[id(norm)] > 1:
            continue
        tensor = call.input_tensors[0]
        convolution = maker(tensor)[0]
        alone = times[id(convolution)] == readers[id(tensor)] == 1
        if alone and _is_plain_convolution(convolution):
            last = len(tensor.shape) - 1
            channels = last if convolution.data_format == "channels_last" else 1
            same_dtype = norm.compute_dtype == convolution.compute_dtype
            if norm.axis in (channels, channels - last - 1) and same_dtype:
                pairs[norm.name] = convolution
    return pairs


def _is_plain_convolution(layer):
    """Whether it is Keras' or this library's, linear in the kernel and without activation."""
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    known = type(layer) in kinds or keras.saving.get_registered_name(type(layer)).startswith(
        "keras_fsa>"
    )
    return known and isinstance(layer, kinds) and layer.activation is keras.activations.linear


def _folded_weights(convolution, norm):
    """Kernel and bias in float64, so that folding costs no more than one rounding."""
    # With low-rank adaptation, `kernel` is the sum that the layer uses.
    kernel, mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(w), "float64")
        for w in (convolution.kernel, norm.moving_mean, norm.moving_variance)
    )
    bias = np.zeros_like(mean)
    if convolution.use_bias:
        bias = bias + keras.ops.convert_to_numpy(convolution.bias)
    scale = 1 / np.sqrt(variance + norm.epsilon)
    shift = np.zeros_like(mean)
    if norm.scale:
        scale = scale * keras.ops.convert_to_numpy(norm.gamma)
    if norm.center:
        shift = shift + keras.ops.convert_to_numpy(norm.beta)
    if isinstance(convolution, keras.layers.DepthwiseConv2D):
        # (height, width, channels, multiplier): output channel c * multiplier + m.
        kernel = kernel * scale.reshape(kernel.shape[2:])
    else:
        kernel = kernel * scale
    return [kernel, shift + scale * (bias - mean)]

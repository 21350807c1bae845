"""Batch normalisation folded into the convolution before it, for inference.

A convolution is linear, and so is batch norm with its moving statistics:

    y = gamma (conv(x, K) + b - mean) / sqrt(variance + epsilon) + beta
      = conv(x, s K) + s (b - mean) + beta

with `s = gamma / sqrt(variance + epsilon)` for each output channel. So the layer goes, and nothing
is computed in its place.
"""

import keras
import numpy as np

from keras_fsa.models.fsanet import FsaNet


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """A copy of a trained model for inference, with batch norms folded into convolutions.

    A `BatchNormalization` over the channels is folded where its only input is the output of a
    `Conv2D` or `DepthwiseConv2D` without activation that nothing else reads, and both layers
    compute in the same dtype. Others stay as they are: before a convolution, behind padding, shared
    layers, the batch norm inside an attention layer. Padding of the convolution, strides,
    dilations and biases do not matter.

    Args:
        model: an `FsaNet`, or a functional or sequential Keras model.

    Returns:
        For an `FsaNet` an `FsaNet` without auxiliary head, else a functional model. It is not
        compiled, equals `model` in inference up to the rounding of its dtype, and can be saved and
        exported. To train further, keep the original.

    Raises:
        ValueError: for anything else.

    Source: Jacob et al., arXiv:1712.05877, section 3.2.
    """
    if isinstance(model, FsaNet):
        return _fold_fsanet(model)
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise ValueError(
            "`model` must be an FsaNet, or a functional or built sequential Keras model. Received: "
            f"model={model!r}. Fold the functional parts of a subclassed model one by one."
        )
    return _fold_functional(model)


def _fold_fsanet(model):
    config = model.get_config()
    folded = FsaNet.from_config(
        {
            **config,
            "backbone": _fold_functional(model.backbone),
            "head": _fold_functional(model.head),
            "auxiliary_loss_weight": 0,
        }
    )
    folded.normalize.set_weights(model.normalize.get_weights())
    return folded


def _fold_functional(model):
    pairs = _foldable(model)
    convolutions = {convolution.name for convolution in pairs.values()}

    def clone(layer):
        if not isinstance(layer, keras.Layer) or isinstance(layer, keras.layers.InputLayer):
            return layer
        if isinstance(layer, keras.Model):
            return fold_batch_norm(layer)
        config = layer.get_config()
        if layer.name in convolutions:
            config["use_bias"] = True
            config.pop("lora_rank", None)  # what it learned is in the kernel then
        return type(layer).from_config(config)

    def call(layer, *args, **kwargs):
        return args[0] if layer.name in pairs else layer(*args, **kwargs)

    inputs = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name), model.input
    )
    folded = keras.models.clone_model(
        model, input_tensors=inputs, clone_function=clone, call_function=call
    )
    layers = {layer.name: layer for layer in folded.layers}
    for layer in model.layers:
        kept = layer.name in layers and layer.name not in convolutions
        if kept and layer.weights and not isinstance(layer, keras.Model):
            layers[layer.name].set_weights(layer.get_weights())
    for name, convolution in pairs.items():
        weights = _folded_weights(convolution, model.get_layer(name))
        layers[convolution.name].set_weights(weights)
    return folded


def _foldable(model):
    """The convolution before each batch norm that can be folded, by the batch norm's name."""
    readers = {id(tensor): 1 for tensor in keras.tree.flatten(model.output)}
    makers, norms = {}, []
    for layer in model.operations:
        try:
            inputs, outputs = (keras.tree.flatten(x) for x in (layer.input, layer.output))
        except (AttributeError, ValueError):
            continue  # a layer that is called several times has no one input
        for tensor in inputs:
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
        for tensor in outputs:
            makers[id(tensor)] = layer
        if type(layer) is keras.layers.BatchNormalization:
            norms.append((layer, inputs[0]))
    pairs = {}
    for norm, tensor in norms:
        convolution = makers.get(id(tensor))
        if convolution is None:
            continue
        if _is_plain_convolution(convolution) and readers[id(tensor)] == 1:
            last = len(tensor.shape) - 1
            channels = last if convolution.data_format == "channels_last" else 1
            same_dtype = norm.compute_dtype == convolution.compute_dtype
            if norm.axis in (channels, channels - last - 1) and same_dtype:
                pairs[norm.name] = convolution
    return pairs


def _is_plain_convolution(layer):
    """Keras' own or this library's, whose result is linear in the kernel; without activation."""
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

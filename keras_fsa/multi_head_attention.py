"""Keras' multi-head attention, as attention between the positions of a feature map.

If `x` holds a map's positions one after the other, `(B, H * W, C)`, these are the same function:

    keras.layers.MultiHeadAttention(heads, d)(x, x)
    SpatialSelfAttention("softmax", key_dim=heads * d, value_dim=heads * d, use_bias=True,
                         residual=None, num_heads=heads)    of the map, (B, H, W, C)

The graph of a functional model shows whether a layer is called in this way, and the height and
width of the map: `Reshape` turned a map into a sequence, and what followed left positions in place.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_fsa.graphs import maker, pointwise
from keras_fsa.layers import SpatialSelfAttention
from keras_fsa.layers.self_attention import SelfAttention

MASKS = ("query_mask", "value_mask", "key_mask", "attention_mask", "use_causal_mask")
PROJECTIONS = ("query", "key", "value", "output")


def as_spatial(layer: layers.MultiHeadAttention) -> SpatialSelfAttention:
    """Attention on maps with the arguments of a layer, not yet built.

    Raises:
        ValueError: for a subclass, or for arguments that attention on maps does not have.
    """
    if type(layer) is not layers.MultiHeadAttention:
        _reject(layer, f"its class, {type(layer).__name__}, may compute something else")
    config = layer.get_config()
    for name in ("output_shape", "sliding_window", "use_gate"):
        if config.get(name):
            _reject(layer, f"it has {name}={config[name]!r}")
    parts = (getattr(layer, f"{name}_dense") for name in PROJECTIONS)
    if mode := next(filter(None, (part.quantization_mode for part in parts)), None):
        _reject(layer, f"it is quantized to {mode}", "Truncate the model before `quantize`.")
    return SpatialSelfAttention(
        "softmax",
        key_dim=layer.num_heads * layer.key_dim,
        value_dim=layer.num_heads * layer.value_dim,
        use_bias=layer.use_bias,
        residual=None,
        kernel_initializer=config["kernel_initializer"],
        kernel_regularizer=config["kernel_regularizer"],
        data_format="channels_last",
        num_heads=layer.num_heads,
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def copy_weights(layer: layers.MultiHeadAttention, attention: SelfAttention) -> None:
    """Copy the weights of a layer to attention on maps."""
    for name in PROJECTIONS:
        dense = getattr(layer, f"{name}_dense")
        for part in ("kernel", "bias")[: 1 + layer.use_bias]:
            weight = getattr(attention, f"{name}_{part}")
            weight.assign(ops.reshape(getattr(dense, part), weight.shape))


def call(
    layer: layers.MultiHeadAttention,
    attention: SelfAttention,
    arguments: tuple[Sequence, dict[str, Any]],
    reshapes: dict[str, layers.Reshape],
    map_size: tuple[int, int] | None = None,
) -> keras.KerasTensor:
    """Call attention on maps in place of a layer's call in a graph.

    Args:
        layer: the layer that is replaced.
        attention: what replaces it.
        arguments: of the call: positional ones, and keyword ones by name.
        reshapes: the reshapes between sequences and maps, by name: those of earlier calls are
            called again, new ones are added.
        map_size: height and width, for when the graph does not show them.

    Returns:
        The tensor that stands for the result of `layer`.

    Raises:
        ValueError: for a call that is not of this kind, or a map whose size is not known.
    """
    positional, named = arguments
    signature = inspect.signature(layers.MultiHeadAttention.call)
    given = signature.bind(layer, *positional, **named).arguments
    x, key = given["query"], given.get("key")
    if given["value"] is not x or not (key is None or key is x):
        _reject(layer, "its queries, keys and values are not of one tensor")
    masks = [name for name in MASKS if given.get(name) is not None and given[name] is not False]
    # Of a layer such as `Masking`, further up.
    if masks or getattr(x, "_keras_mask", None) is not None:
        _reject(layer, f"it is masked{f' by {masks[0]}' if masks else ''}")
    if given.get("return_attention_scores"):
        _reject(layer, "its scores are used, of which attention between frequencies has none")
    rank = len(x.shape)
    if rank not in (3, 4) or tuple(layer.attention_axes) != tuple(range(1, rank - 1)):
        _reject(layer, f"it attends along the axes {layer.attention_axes} of {x.shape}")
    options = {"training": given["training"]} if "training" in given else {}
    if rank == 4:
        return attention(x, **options)
    height, width = _map_size(layer, x, map_size)

    def reshape(name, *shape):
        options = {"name": f"{layer.name}_{name}", "dtype": layer.dtype_policy}
        return reshapes.setdefault(options["name"], layers.Reshape(shape, **options))

    positions, channels = height * width, x.shape[-1]
    y = reshape(f"map_{height}x{width}", height, width, channels)(x)
    y = attention(y, **options)
    return reshape(f"sequence_{positions}", positions, channels)(y)


def _map_size(layer, sequence, asked):
    """Height and width of the map whose positions a sequence holds."""
    sizes = _traced(sequence)
    if len(sizes) == 1:
        return sizes.pop()
    if asked is None:
        found = f"maps of the sizes {sorted(sizes)}" if sizes else "no map of known size"
        _reject(
            layer,
            f"the sequence of shape {sequence.shape} that it attends in comes from {found}",
            "Say how high and wide the map is: map_size=(H, W).",
        )
    if sequence.shape[1] not in (None, asked[0] * asked[1]):
        _reject(
            layer,
            f"a sequence of {sequence.shape[1]} positions is no map of map_size={asked}",
            "A token for the class, or several maps in one sequence, make it longer.",
        )
    return asked


def _traced(sequence):
    """Sizes of the maps that were reshaped into the sequence, or into something added to it."""
    sizes, seen, pending = set(), set(), [sequence]
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen or len(tensor.shape) != 3:
            continue
        seen.add(id(tensor))
        operation, sources = maker(tensor)
        if type(operation).__name__ == "Reshape" and len(sources) == 1:
            shape = sources[0].shape
            if len(shape) == 4 and None not in shape[1:3]:
                _, height, width, channels = shape
                if tuple(tensor.shape[1:]) == (height * width, channels):
                    sizes.add((height, width))
        elif isinstance(operation, layers.MultiHeadAttention):
            # Its output has the positions of its queries.
            pending += sources[:1]
        elif pointwise(operation, 3):
            pending += sources
    return sizes


def _reject(layer, reason, fix="Replace it by hand, or truncate a model without it."):
    raise ValueError(
        "A `keras.layers.MultiHeadAttention` can be truncated where it attends between all "
        "positions of one map: layer(x, x), with x reshaped from (B, H, W, C) to (B, H * W, C), "
        f"or the map itself. Received: the layer {layer.name!r}, but {reason}. {fix}"
    )

"""Low frequency without retraining: swap the attention of a trained network, keep its weights.

The paper observes that trained self-attention does most of its work at a few low frequencies.
`to_frequency` exploits this by truncating the attention of a trained network to a band.
`to_spatial` converts the other way, from frequency self-attention to the equivalent spatial
attention.

Source: arXiv:2211.15595.
"""

import keras
from keras.layers import MultiHeadAttention

from keras_fsa import multi_head_attention, spectral
from keras_fsa.arguments import one_of, positive_ints
from keras_fsa.graphs import is_graph, uncompiled
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.types import Frequencies
from keras_fsa.weights import copy_weights


def to_frequency(
    model: keras.Model,
    frequencies: Frequencies = 8,
    affinity: str | None = None,
    map_size: tuple[int, int] | None = None,
) -> keras.Model:
    """Copy a trained model with its attention limited to low frequencies, without training.

    Weights are kept; layers are replaced:

    - `SpatialSelfAttention` with softmax gets `low_pass=frequencies`. Under `affinity="linear"` it
      becomes a `FrequencySelfAttention(affinity="linear")`, where `exp(s q.k)` is replaced by its
      first-order expansion `1 + s q.k`. Softmax still costs the square of the number of positions
      when its input is limited to a band; the expansion does not.
    - `SpatialSelfAttention` with an affinity that has a form on tokens (`"dot_product"`,
      `"linear_softmax"`, `"linear"` ...) becomes a `FrequencySelfAttention` with that affinity.
    - `FrequencySelfAttention` gets the narrower band.
    - `keras.layers.MultiHeadAttention` between the positions of a map counts as
      `SpatialSelfAttention` with softmax: `layer(x, x)`, where `x` is a map `(B, H, W, C)`, or was
      reshaped from one to `(B, H * W, C)` and then changed only position by position (norms, dense
      layers, dropout, additions, other such attention). A `Reshape` converts to the map and back,
      and dropout of attention weights is omitted.

    Args:
        model: a trained `FsaNet`, or a Functional or Sequential model, with attention layers at any
            level of nesting.
        frequencies: the band: an int, a pair, or two ranges, see
            `keras_fsa.spectral.parse_frequencies`. It must lie inside each layer's band.
        affinity: None, or `"linear"` for the expansion of softmax; layers with another affinity are
            unaffected.
        map_size: height and width of the map between whose positions a `MultiHeadAttention`
            attends, if the model does not show how its sequence was made.

    Returns:
        A new, uncompiled model with the names, weights, dtype policies and trainable flags of the
        old one. Shared layers stay shared. An `FsaNet` becomes an `FsaNet`; any other model becomes
        a plain Functional or Sequential one, even if it was a subclass.

    Raises:
        ValueError: for an invalid argument; a band outside a layer's band, or beyond a map of known
            size; a model that is not built or has no attention; attention inside a custom layer or
            a subclassed model, whose `call` cannot be rewritten; a `MultiHeadAttention` that is
            called in another way. Inside custom layers, `MultiHeadAttention` stays as it is if
            there is other attention to truncate.

    Example:
    >>> model = keras_fsa.FsaNet(19, backbone="resnet18", attention="spatial")
    >>> fast = keras_fsa.to_frequency(model, frequencies=8, affinity="linear")
    """
    band = spectral.parse_frequencies(frequencies)
    one_of("affinity", affinity, (None, "linear"))
    positive_ints("map_size", map_size, 2, optional=True)

    def truncate(layer):
        if isinstance(layer, MultiHeadAttention):
            layer = multi_head_attention.as_spatial(layer)
        spatial = isinstance(layer, SpatialSelfAttention)
        old = layer.low_pass if spatial else layer.frequencies
        _check_inside(frequencies, band, old, layer.name)
        if layer.built:
            input_shape = layer.get_build_config()["input_shape"]
            spectral.check_band_fits(frequencies, *layer.spatial_size(input_shape))
        config = layer.get_config()
        expanded = affinity is not None and layer.affinity.expansion == affinity
        if spatial and (layer.affinity.spectral or expanded):
            del config["low_pass"]
            config["frequencies"] = frequencies
            if expanded:
                config["affinity"] = affinity
            return FrequencySelfAttention.from_config(config)
        config["low_pass" if spatial else "frequencies"] = frequencies
        return type(layer).from_config(config)

    kinds = (SpatialSelfAttention, FrequencySelfAttention, MultiHeadAttention)
    return _replace_attention(model, kinds, truncate, map_size and tuple(map_size))


def to_spatial(model: keras.Model) -> keras.Model:
    """Copy a model with frequency self-attention replaced by spatial, equal up to rounding.

    Every `FrequencySelfAttention` becomes a `SpatialSelfAttention` with the same affinity and
    weights, and its band as `low_pass`. The result is slower and meant for comparisons.

    Args:
        model: as in `to_frequency`.

    Returns:
        A new model, as in `to_frequency`.

    Raises:
        ValueError: for a model that is not built or has no `FrequencySelfAttention`, and for
            attention inside a custom layer or subclassed model, as in `to_frequency`.
    """

    def widen(layer):
        config = layer.get_config()
        config["low_pass"] = config.pop("frequencies")
        return SpatialSelfAttention.from_config(config)

    return _replace_attention(model, (FrequencySelfAttention,), widen)


def _check_inside(frequencies, band, old, name):
    if old is None:
        return
    pairs = zip(band, spectral.parse_frequencies(old), strict=True)
    if not all(start <= u and v <= stop for (u, v), (start, stop) in pairs):
        raise ValueError(
            "`frequencies` must lie inside the band that an attention layer already has. Received: "
            f"frequencies={frequencies!r} for the layer {name!r} with the band {old!r}. Ask for a "
            "part of that band: frequencies that a layer was trained without cannot be restored."
        )


def _check_model(model, kinds):
    if not (is_graph(model) or _is_fsanet(model)):
        raise ValueError(
            "`model` must be a Functional or Sequential model or an FsaNet: how others call their "
            f"layers is unknown. Received: model={model!r}. Build the attention "
            "into a functional model: keras.Model(inputs, outputs); of a task of KerasHub pass "
            "keras_fsa.hub.to_fsanet(task)."
        )
    if not model.built:
        raise ValueError(
            f"`model` must be built, so that it has weights. Received: model={model.name!r}, which "
            "is not. Call it on an image, or load its weights, first."
        )
    found = [layer for layer in _walk(model) if isinstance(layer, kinds)]
    if not found:
        names = ", ".join(kind.__name__ for kind in kinds[:-1])
        names = f"{names} or {kinds[-1].__name__}" if names else kinds[0].__name__
        raise ValueError(
            f"`model` must hold a {names} layer. Received: model={model.name!r}, which has none. "
            "Pass a model with such attention; what other layers compute is unknown."
        )
    members = list(_members(model))
    if not any(isinstance(layer, kinds) for layer in members):
        for layer in members:
            _check_nothing_hidden(layer, model, kinds)


def _members(model):
    """The layers of a graph, and of the graphs within it, that are not graphs themselves."""
    for layer in model.layers:
        if is_graph(layer) or _is_fsanet(layer):
            yield from _members(layer)
        else:
            yield layer


def _check_nothing_hidden(layer, model, kinds):
    """Raise a `ValueError` for attention inside a layer, whose `call` cannot be rewritten."""
    hidden = next((inner for inner in _walk(layer) if isinstance(inner, kinds)), None)
    if hidden is not None:
        raise ValueError(
            "Attention must be a layer of a Functional or Sequential model or an FsaNet, at the "
            f"top or nested. Received: model={model.name!r}, which holds the layer {hidden.name!r} "
            f"inside {layer.name!r}, a {type(layer).__name__}. Build that part as a functional "
            "model: keras.Model(inputs, outputs)."
        )


def _replace_attention(model, kinds, replace, map_size=None):
    """A copy of the model with `replace(layer)` in place of each attention layer of these kinds."""
    _check_model(model, kinds)
    # Each layer is copied once, so shared layers stay shared. A model follows its layers.
    copies, pairs = {}, []
    # By what replaces them: layers that are called in another way, and hold other weights.
    multi_head: dict[int, keras.Layer] = {}
    reshapes: dict[str, keras.layers.Reshape] = {}
    own = tuple(kind for kind in kinds if kind is not MultiHeadAttention)

    def copy(layer):
        if id(layer) not in copies:
            copies[id(layer)] = make(layer)
            if isinstance(layer, keras.Layer):
                pairs.append((layer, copies[id(layer)]))
        return copies[id(layer)]

    def make(layer):
        if isinstance(layer, kinds):
            new = replace(layer)
            if isinstance(layer, MultiHeadAttention):
                multi_head[id(new)] = layer
            return new
        if _is_fsanet(layer):
            return _copy_fsanet(layer, copy, pairs)
        if layer is not model and _is_whole(layer, kinds):
            for member in _members(layer):
                _check_nothing_hidden(member, model, own)
            new = type(layer).from_config(layer.get_config())
            pairs.extend(zip(_walk(layer)[1:], _walk(new)[1:], strict=True))
            return new
        if is_graph(layer):
            return _copy_graph(layer, copy, call)
        _check_nothing_hidden(layer, model, own)
        return type(layer).from_config(layer.get_config())

    def call(layer, *args, **kwargs):
        if id(layer) not in multi_head:
            return layer(*args, **kwargs)
        return multi_head_attention.call(
            multi_head[id(layer)], layer, (args, kwargs), reshapes, map_size
        )

    result = copy(model)
    plain = [pair for pair in pairs if not (is_graph(pair[0]) or _is_fsanet(pair[0]))]
    for old, new in plain:
        (multi_head_attention.copy_weights if id(new) in multi_head else copy_weights)(old, new)
    # Setting the flag of a model sets those of its layers, so models go first.
    for old, new in reversed(pairs):
        if new.trainable != old.trainable:
            new.trainable = old.trainable
    for old, new in plain:
        for inner, new_inner in zip(_walk(old), _walk(new), strict=False):
            # Setting the flag would train the kernel below a low-rank adaptation, too.
            if new_inner.trainable != inner.trainable:
                new_inner.trainable = inner.trainable
    return result


def _copy_graph(model, copy, call):
    """A Functional or Sequential model of the same graph, whose layers are `copy(layer)`."""
    if isinstance(model, keras.Sequential):
        inputs = [_new_input(x, x.name) for x in model.inputs]
        return keras.Sequential([*inputs, *map(copy, model.layers)], name=model.name)
    graph = uncompiled(model)
    # `clone_model` would name inputs after their tensors.
    names = {
        id(layer.output): layer.name
        for layer in graph.layers
        if isinstance(layer, keras.layers.InputLayer)
    }
    inputs = keras.tree.map_structure(lambda x: _new_input(x, names[id(x)]), graph.input)
    return keras.models.clone_model(
        graph, input_tensors=inputs, clone_function=copy, call_function=call
    )


def _copy_fsanet(net, copy, pairs):
    """An `FsaNet` with copies of the backbone, the attention and any head that was passed to it.

    It builds the other layers itself.
    """
    config = net.get_config()
    built = ["auxiliary_head"]
    if "head" in config:
        config["head"] = copy(net.head)
    else:
        built.append("head")
    config["backbone"] = copy(net.backbone)
    attention = net.attention_layer()
    config["attention"] = replaced = None if attention is None else copy(attention)
    for setting in ("frequencies", "affinity"):
        value = getattr(replaced, setting, None)
        if value not in (None, getattr(attention, setting, None)):
            config[setting] = value
    new = type(net).from_config(config)
    for part in built:
        old_part, new_part = getattr(net, part), getattr(new, part)
        if old_part is not None:
            pairs.extend(zip(old_part.layers, new_part.layers, strict=True))
            pairs.append((old_part, new_part))
    return new


def _is_whole(layer, kinds):
    """Whether it is a graph that is built by its class, like KerasHub's, with nothing to replace.

    Layers of such a graph need not be recreatable from their configs.
    """
    return (
        is_graph(layer)
        and not type(layer).get_config.__module__.startswith("keras.")
        and not any(isinstance(member, kinds) for member in _members(layer))
    )


def _new_input(tensor, name):
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)


def _is_fsanet(layer):
    return isinstance(layer, FsaNet) and type(layer).call is FsaNet.call


def _walk(layer):
    """The layer and all layers within it; empty for operations that are not layers."""
    return list(layer._flatten_layers()) if isinstance(layer, keras.Layer) else []

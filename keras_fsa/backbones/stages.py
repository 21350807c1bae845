"""Feature maps of networks that do not name them: KerasHub's, `keras.applications`' and others.

| the network has | stages |
| --- | --- |
| levels of a pyramid, `pyramid_outputs` | the last is stage 5, the one before it stage 4 |
| a dict of the maps stage1 to stage4 | each counts one more: stage 5 is its stage4 |
| one map | that is stage 5; finer ones are the last of their size |
| tokens of positions, class tokens before them | their map is stage 4 and stage 5 |
"""

import math
import re
from typing import Any

import keras
from keras import ops

from keras_fsa.graphs import calls

NAMES = ("stage5", "stage4", "stage3", "stage2", "stage1")


def find_stages(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Feature maps `(B, h, w, C)` of a network by their stage, `"stage5"` being the coarsest.

    Args:
        model: a functional model of one input, images `(B, H, W, channels)`.

    Returns:
        As many of `"stage1"` to `"stage5"` as there are, all from one input; none if no line of the
        table above applies.
    """
    levels = getattr(model, "pyramid_outputs", None) or {}
    names = [name for name in levels if re.fullmatch(r"P\d+", name)]
    if len(names) > 1:
        names = sorted(names, key=lambda name: -int(name[1:]))[: len(NAMES)]
        if _by_own_config(model):
            maps = Levels(model, names, name="levels")(_images(model))
        else:
            maps = [levels[name] for name in names]
        return dict(zip(NAMES, maps, strict=False))
    output = getattr(model, "output", None)
    if isinstance(output, dict) and set(output) >= {f"stage{n}" for n in (1, 2, 3, 4)}:
        return {f"stage{n + 1}": output[f"stage{n}"] for n in (4, 3, 2, 1)}
    if isinstance(output, dict) or output is None or len(getattr(model, "inputs", ())) != 1:
        return {}
    if len(output.shape) == 4:
        return _last_of_each_size(model)
    if len(output.shape) == 3 and None not in model.inputs[0].shape[1:3]:
        return _map_of_tokens(model)
    return {}


def _images(model):
    return keras.Input(model.inputs[0].shape[1:], name="images")


def _by_own_config(model):
    """Whether it is a KerasHub transformer, whose layers can only be reloaded as a whole."""
    attends = any("Transformer" in type(layer).__name__ for layer in model.layers)
    return attends and type(model).__module__.startswith("keras_hub.")


def _last_of_each_size(model):
    """The output, and the last map of each finer stride, not counting padding."""
    if not hasattr(model, "operations"):
        return {}
    left_out = (keras.layers.InputLayer, keras.layers.ZeroPadding2D)
    outputs = [
        _only_map(call.outputs) for call in calls(model) if not isinstance(call.operation, left_out)
    ]
    maps = [output for output in outputs if output is not None]
    heights, size = _heights(model, [*maps, model.output])
    *strides, coarsest = (round(math.log2(size / height)) for height in heights)
    last = dict(zip(strides, maps, strict=True))  # in the network's order
    found = {"stage5": model.output}
    for finer, name in enumerate(NAMES[1:], 1):
        if coarsest - finer in last:
            found[name] = last[coarsest - finer]
    return found if "stage4" in found else {}


def strided_blocks(model: keras.Model) -> list[str]:
    """Classes of those layers in a functional model that contain layers and change a map's size."""
    blocks = [
        (type(call.operation).__name__, _only_map(call.input_tensors), _only_map(call.outputs))
        for call in calls(model)
        if isinstance(call.operation, keras.Layer) and len(call.operation._flatten_layers()) > 1
    ]
    blocks = [block for block in blocks if block[1] is not None]
    strided = {kind for kind, _, after in blocks if after is None}
    between = [block for block in blocks if block[2] is not None]
    heights = (_heights(model, [block[n] for block in between])[0] for n in (1, 2))
    for (kind, *_), before, after in zip(between, *heights, strict=True):
        if before != after:
            strided.add(kind)
    return sorted(strided)


def _heights(model, tensors):
    """Heights of maps for an image, and the image's height."""
    if not tensors:
        return [], None
    size = tuple(side or 1024 for side in model.inputs[0].shape[1:3])
    channels = model.inputs[0].shape[-1]
    probe = keras.Model(model.inputs[0], tensors)
    return [shape[1] for shape in probe.compute_output_shape((1, *size, channels))], size[0]


def _only_map(tensors):
    """The map among a call's inputs or outputs; None for several tensors or no map."""
    return tensors[0] if len(tensors) == 1 and len(tensors[0].shape) == 4 else None


def _map_of_tokens(model):
    """The last tokens of a transformer as a map: earlier ones belong to no position."""
    _, height, width, _ = model.inputs[0].shape
    count = model.output.shape[1]
    sizes = [
        (height // stride, width // stride)
        for stride in range(1, min(height, width) + 1)
        if height % stride == width % stride == 0
    ]
    # The finest grid that the tokens fill: there are few class tokens.
    fitting = [size for size in sizes if count is not None and size[0] * size[1] <= count]
    if not fitting:
        return {}
    images = _images(model)
    # The network as a layer of this one, so that it is saved by its own configuration.
    inputs = dict.fromkeys(model.input, images) if isinstance(model.input, dict) else images
    tokens = LastTokens(*fitting[0], name="positions")(model(inputs))
    return {"stage5": tokens, "stage4": tokens}


@keras.saving.register_keras_serializable(package="keras_fsa")
class Levels(keras.layers.Layer):
    """Levels of a KerasHub backbone's pyramid. The backbone is saved by its own configuration.

    Args:
        network: the backbone.
        levels: names of the levels in `pyramid_outputs`.
        **kwargs: of `keras.layers.Layer`.

    Output:
        A list of maps.
    """

    def __init__(self, network: keras.Model, levels: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network, self.levels = network, list(levels)
        outputs = [network.pyramid_outputs[name] for name in self.levels]
        self.features = keras.Model(network.inputs[0], outputs)
        self.built = True

    def call(self, inputs, training=None):
        return self.features(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return self.features.compute_output_shape(input_shape)

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network, "levels": list(self.levels)}

    @classmethod
    def from_config(cls, config):
        config = {**config, "network": keras.saving.deserialize_keras_object(config["network"])}
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_fsa")
class LastTokens(keras.layers.Layer):
    """The last `height * width` tokens of `(B, N, C)` as a map `(B, height, width, C)`.

    Args:
        height, width: positive ints.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, height: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.height, self.width = height, width

    def call(self, inputs):
        tokens = inputs[:, -self.height * self.width :]
        return ops.reshape(tokens, (-1, self.height, self.width, tokens.shape[-1]))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.height, self.width, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "height": self.height, "width": self.width}

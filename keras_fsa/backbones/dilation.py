"""Turn a strided network into a dilated one that computes the same features at more positions."""

from typing import Any

import keras
from keras import ops

from keras_fsa.graphs import calls, maker, uncompiled
from keras_fsa.types import Shape


def dilate(
    model: keras.Model, output_stride: int, image_size: Shape, contract: bool = True
) -> keras.Model:
    """A clone of a network in which no feature is coarser than the output stride.

    Every stride that is removed to reach the output stride dilates the layers that follow, so the
    clone's features are those of `model`, computed at more positions: the values of `model` are at
    every second, fourth, ... position. Layers keep their names, and weights are copied. Means over
    the whole map, as in squeeze-and-excitation, are then means over more positions.

    The number of zeros that "same" padding puts in front of a strided window depends on the size,
    and so do the pixels that a position sees. Where such a stride is removed, the window is centred
    on the position at any size, so a network trained at one size can be used at another. That is as
    many zeros as an odd size has; at even sizes the values of `model` are shifted by one position.

    Args:
        model: a functional model of convolutions, poolings and element-wise layers, with one input.
        output_stride: a power of two.
        image_size: `(height, width)` of the clone's input; both may be None.
        contract: a window whose own stride is removed is dilated by the rate of the map it reads
            (True), or by the rate of the map it produces (False). The ccnet family does the latter:
            its features are not those of the strided network.

    Returns:
        A plain functional model with the outputs and the weights of `model`.

    Raises:
        ValueError: for a layer with a stride that cannot be dilated, and for one that is called in
            several places which would need different dilations.

    Source: Chen et al., arXiv:1606.00915.
    """
    model = uncompiled(model)
    changes = _changes(model, output_stride, contract)

    def initializers(layer):
        return [name for name in vars(layer) if name.endswith("_initializer")]

    def clone(layer):
        if not isinstance(layer, keras.Layer):
            return layer
        config = layer.get_config()
        change = dict(changes.get(layer.name, {}))
        cls = change.pop("class", type(layer))
        config = {**config, **change}
        if cls is DilatedAveragePooling2D:
            config = {name: config[name] for name in ("name", "dtype", "trainable", "rate")}
        copy = cls.from_config(config)
        # The weights carry over. Random ones took a third of the time of a ResNet101 under JAX.
        for name in initializers(copy):
            setattr(copy, name, keras.initializers.Zeros())
        return copy

    images = keras.Input((*image_size, model.input.shape[-1]), name="images")
    dilated = keras.models.clone_model(model, input_tensors=images, clone_function=clone)
    for layer in model.layers:
        if not layer.weights:
            continue
        copy = dilated.get_layer(layer.name)
        copy.set_weights(layer.get_weights())
        for name in initializers(copy):
            setattr(copy, name, getattr(layer, name))
    return dilated


def _changes(model, output_stride, contract):
    """What changes in the config of each layer, by the layer's name."""
    strides = {id(tensor): 1 for tensor in model.inputs}  # of a tensor of the strided network
    changes: dict[str, dict[str, Any]] = {}

    def change(layer, wanted):
        if changes.setdefault(layer.name, wanted) != wanted:
            raise ValueError(
                "A layer that serves several places must be dilated alike for all of them. "
                f"Received: layer={layer.name!r}, a {type(layer).__name__}, with output_stride="
                f"{output_stride}. Choose a larger output stride, or give each place a layer of "
                "its own."
            )

    for call in calls(model):
        layer, sources = call.operation, call.input_tensors
        if not sources:
            continue
        stride = max(strides[id(source)] for source in sources)
        window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
        window = window if isinstance(window, tuple) else None  # else of a block of layers
        step = max(layer.strides) if window else 1
        before, after = (max(1, n // output_stride) for n in (stride, stride * step))
        rate = before if contract else after
        for output in call.outputs:
            strides[id(output)] = stride * step
        if window is None:
            continue
        wanted: dict[str, Any] = {}
        if after > 1 and step > 1:
            wanted["strides"] = step * before // after
        if after > 1 and max(window) > 1:
            if hasattr(layer, "dilation_rate"):
                wanted["dilation_rate"] = tuple(rate * n for n in layer.dilation_rate)
            elif _is_average_of_two(layer):
                wanted = {"class": DilatedAveragePooling2D, "rate": before}
            else:
                raise ValueError(
                    "A layer beyond the output stride must be a convolution, or an average pooling "
                    f"of 2 x 2. Received: layer={layer.name!r}, a {type(layer).__name__}, at "
                    f"stride {stride} with output_stride={output_stride}. Choose a larger output "
                    "stride, or pass a model whose outputs are a dict of the features, and leave "
                    "`output_stride` out."
                )
        change(layer, wanted)
        padding = maker(sources[0])[0]
        if isinstance(padding, keras.layers.ZeroPadding2D):
            scaled = _scaled(padding, window, step, rate) if "dilation_rate" in wanted else {}
            change(padding, scaled)
    return changes


def _scaled(padding, window, step, rate):
    """The change of a padding in front of a window that is dilated."""
    scaled = []
    for size, (front, behind) in zip(window, padding.padding, strict=True):
        # Where it pads less than the window takes, as MobileNet does before a stride, zeros follow,
        # so that the map still covers the image.
        missing = max(0, size - 1 - front - behind) if step > 1 else 0
        scaled.append((rate * front, rate * (behind + missing)))
    return {"padding": tuple(scaled)}


def _is_average_of_two(layer):
    return (
        isinstance(layer, keras.layers.AveragePooling2D)
        and layer.data_format == "channels_last"
        and tuple(layer.pool_size) == tuple(layer.strides) == (2, 2)
    )


@keras.saving.register_keras_serializable(package="keras_fsa")
class DilatedAveragePooling2D(keras.layers.Layer):
    """Mean of four positions of a map `(B, H, W, C)`, `rate` apart, at every position.

    Position `i` of an axis averages `i` and `i + rate`, or keeps its own value if `i + rate` is
    beyond the map. At every multiple of `2 * rate` this is what `AveragePooling2D(2, 2, "same")`
    returns for every `rate`-th position. With "valid" padding, that layer drops the last position
    of an odd size; here it is kept, so that the map still covers the image.

    Args:
        rate: distance, a positive int.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, rate: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, inputs):
        x, rate = inputs, self.rate
        x = (x + ops.concatenate([x[:, rate:], x[:, -rate:]], axis=1)) / 2
        return (x + ops.concatenate([x[:, :, rate:], x[:, :, -rate:]], axis=2)) / 2

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}

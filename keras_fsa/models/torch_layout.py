"""Convolutions and batch norm under torch without copies: the speed path for channels-last maps.

Keras' torch backend makes three copies for each channels-last convolution, depthwise ones included:
the input to channels first and back to torch's channels-last memory format, and the kernel to
torch's order. None of them is needed. A channels-last map *is*, seen through a permutation, a
tensor in torch's channels-last memory format; and a kernel can lie in memory in torch's order while
it keeps the shape that Keras gives it. Keras' batch norm passes over the map several times, torch's
fused one once or twice.

For a 1x1 window, each row of a map can be treated as a map of its own. On a CPU, torch uses oneDNN
to convolve several maps, but may use a general matrix product for a single one, which takes twice
as long on one thread.

Saved files are unaffected: shapes, values, layers and configurations stay as they are.
"""

import types
from typing import Any

import keras
from keras import ops

from keras_fsa.layers.batch_normalization import move_statistics

TORCH_ORDER = {keras.layers.Conv2D: (3, 0, 1, 2), keras.layers.DepthwiseConv2D: (2, 3, 0, 1)}
"""Axes of a kernel in torch's memory order: of `(rows, columns, in, out)`, or `(rows, columns,
channels, multiplier)`."""


def avoid_copies(layer: keras.Layer) -> None:
    """Let a built channels-last layer run without copies.

    This applies to convolutions, batch norms and max poolings. Those that pad unevenly ("same" with
    a stride on some sizes), batch norms that are masked, synchronised or renormalised, and all
    other layers stay as they are. Values differ at most by rounding.

    Args:
        layer: any; changed in place.
    """
    if type(layer) in TORCH_ORDER and _pads_evenly(layer):
        layer.call = types.MethodType(_convolve, layer)
        if isinstance(layer.kernel, keras.Variable):  # or, with LoRA, a sum
            _store_in_torch_order(layer.kernel, TORCH_ORDER[type(layer)])
    elif type(layer) is keras.layers.BatchNormalization and not layer.renorm:
        layer.call = types.MethodType(_normalize, layer)
    elif type(layer) is keras.layers.MaxPooling2D and _pools_plainly(layer):
        layer.call = types.MethodType(_pool, layer)


def _pads_evenly(layer):
    if layer.data_format != "channels_last":
        return False
    spans = [d * (k - 1) for d, k in zip(layer.dilation_rate, layer.kernel_size, strict=True)]
    return layer.padding == "valid" or (
        layer.padding == "same"
        and all(s % 2 == 0 for s in spans)
        and (max(layer.strides) == 1 or max(spans) == 0)
    )


def _pools_plainly(layer):
    return (layer.padding, layer.data_format) == ("valid", "channels_last")


def _store_in_torch_order(kernel, order):
    value = kernel.value
    back = [order.index(axis) for axis in range(4)]
    # What assigns to the variable or updates it writes into this memory.
    value.data = value.data.permute(order).contiguous().permute(back)


def _convolve(self: keras.layers.Conv2D | keras.layers.DepthwiseConv2D, inputs: Any) -> Any:
    """`call` on views; the neutral twin is Keras' own."""
    from torch.nn.functional import conv2d

    inputs, kernel = ops.convert_to_tensor(inputs), ops.convert_to_tensor(self.kernel)
    bias = ops.convert_to_tensor(self.bias) if self.use_bias else None
    if type(self) is keras.layers.DepthwiseConv2D:
        # (channels, multiplier, rows, columns): a window of its own for each output channel.
        kernel, groups = kernel.permute(2, 3, 0, 1).flatten(0, 1)[:, None], inputs.shape[-1]
    else:
        kernel, groups = kernel.permute(3, 2, 0, 1), self.groups
    strides, shape = self.strides, None
    if inputs.is_cpu and max(self.kernel_size) == 1:
        inputs = inputs[:, :: strides[0], :: strides[1]]
        strides, shape = (1, 1), inputs.shape
        inputs = inputs.reshape(shape[0] * shape[1], 1, *shape[2:])
    padding: tuple[int, ...] = (0, 0)
    if self.padding == "same":
        sides = zip(self.dilation_rate, self.kernel_size, strict=True)
        padding = tuple(d * (k - 1) // 2 for d, k in sides)
    outputs = conv2d(
        inputs.permute(0, 3, 1, 2),
        kernel,
        bias,
        stride=strides,
        padding=padding,
        dilation=self.dilation_rate,
        groups=groups,
    ).permute(0, 2, 3, 1)
    if shape is not None:
        outputs = outputs.reshape(*shape[:-1], outputs.shape[-1])
    return outputs if self.activation is None else self.activation(outputs)


def _pool(self: keras.layers.MaxPooling2D, inputs: Any) -> Any:
    """`MaxPooling2D.call` on a view; the neutral twin is Keras' own."""
    from torch.nn.functional import max_pool2d

    x = ops.convert_to_tensor(inputs).permute(0, 3, 1, 2)
    return max_pool2d(x, self.pool_size, self.strides).permute(0, 2, 3, 1)


def _normalize(
    self: keras.layers.BatchNormalization, inputs: Any, training: Any = None, mask: Any = None
) -> Any:
    """`BatchNormalization.call` by torch's fused kernel; the neutral twin is Keras' own."""
    import torch

    inputs = ops.convert_to_tensor(inputs)
    last = inputs.ndim - 1
    count = inputs.numel() // max(inputs.shape[-1], 1)
    learns = bool(training) and self.trainable
    # Of one position, torch gives no variance.
    if (
        mask is not None
        or self.axis not in (-1, last)
        or (learns and (self.synchronized or count < 2))
    ):
        return keras.layers.BatchNormalization.call(self, inputs, training=training, mask=mask)
    x = inputs.movedim(-1, 1).to(torch.promote_types(inputs.dtype, torch.float32))
    scale, shift = (
        None if variable is None else ops.convert_to_tensor(variable).to(x.dtype)
        for variable in (self.gamma, self.beta)
    )
    if learns:
        mean, variance = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
    else:
        mean, variance = (
            ops.convert_to_tensor(moving).to(x.dtype)
            for moving in (self.moving_mean, self.moving_variance)
        )
    outputs = torch.nn.functional.batch_norm(
        x, mean, variance, scale, shift, training=learns, momentum=1.0, eps=self.epsilon
    )
    if learns:
        # Keras gathers the variance that divides by the count, torch by one less.
        move_statistics(self, mean, variance * ((count - 1) / count))
    return outputs.movedim(1, -1).to(getattr(torch, self.compute_dtype))

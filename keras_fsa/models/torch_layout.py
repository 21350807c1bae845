"""Convolutions under torch without copies: the speed path for a network that keeps channels last.

Keras' torch backend copies three times for each channels-last convolution: the input to channels
first and back to torch's channels-last memory format, and the kernel into torch's order. Neither is
needed. A channels-last map *is*, seen through a permutation, a tensor in torch's channels-last
memory format; and a kernel may lie in memory in the order that torch wants while it keeps the shape
that Keras gives it.

Nothing of this shows in a file: shapes, values, layers and configurations stay as they are.
"""

import types
from typing import Any

import keras
from keras import ops


def avoid_copies(model: keras.Model) -> None:
    """Let a built model's channels-last convolutions run without copies. Torch only.

    Convolutions that pad unevenly ("same" with a stride on some sizes) and all other layers stay as
    they are. Values differ by rounding at most.

    Args:
        model: changed in place. On other backends nothing is done.
    """
    if keras.backend.backend() != "torch":
        return
    # Keras makes public only the layers of models, not those in layers.
    for layer in model._flatten_layers():
        if type(layer) is keras.layers.Conv2D and _pads_evenly(layer):
            layer.convolution_op = types.MethodType(_convolution, layer)
            _store_in_torch_order(layer.kernel)


def _pads_evenly(layer):
    if layer.data_format != "channels_last":
        return False
    spans = [d * (k - 1) for d, k in zip(layer.dilation_rate, layer.kernel_size, strict=True)]
    return layer.padding == "valid" or (
        layer.padding == "same"
        and all(s % 2 == 0 for s in spans)
        and (max(layer.strides) == 1 or max(spans) == 0)
    )


def _store_in_torch_order(kernel):
    """`(rows, columns, in, out)` in the memory order `out, rows, columns, in`."""
    value = kernel.value
    # What assigns to the variable or updates it writes into this memory.
    value.data = value.data.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)


def _convolution(self: keras.layers.Conv2D, inputs: Any, kernel: Any) -> Any:
    """`Conv2D.convolution_op` on views; the neutral twin is Keras' own."""
    from torch.nn.functional import conv2d

    inputs, kernel = ops.convert_to_tensor(inputs), ops.convert_to_tensor(kernel)
    padding: tuple[int, ...] = (0, 0)
    if self.padding == "same":
        sides = zip(self.dilation_rate, self.kernel_size, strict=True)
        padding = tuple(d * (k - 1) // 2 for d, k in sides)
    outputs = conv2d(
        inputs.permute(0, 3, 1, 2),
        kernel.permute(3, 2, 0, 1),
        stride=self.strides,
        padding=padding,
        dilation=self.dilation_rate,
        groups=self.groups,
    )
    return outputs.permute(0, 2, 3, 1)

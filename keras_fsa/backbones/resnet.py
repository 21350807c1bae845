"""ResNets of plain Keras layers, dilated to an output stride of 8 or 16."""

import re
from typing import NamedTuple

import keras
from keras import layers

from keras_fsa.arguments import one_of
from keras_fsa.backbones.dilation import dilate
from keras_fsa.graphs import calls
from keras_fsa.types import DType, Shape

# Whether the blocks are bottlenecks, and how many each stage has.
BLOCKS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
OUTPUT_STRIDES = (8, 16, 32)
STAGES = ("stage4", "stage5")

# The outputs of blocks: of KerasHub and KerasCV, whose stacks count from zero, and of
# keras.applications, whose names count as the paper does.
_BLOCK_OUTPUT = re.compile(r"(?:(?:v2_stack_|stack)(?P<stack>\d)|conv(?P<stage>\d))_block(\d+)_out")

# Those of the one convolution of the stem, or of three.
_STEM_OUTPUT = re.compile(r"conv(\d)_relu")


class _Style(NamedTuple):
    """Names and placements that differ between packages; files and weights depend on them."""

    block: str
    first_block: int
    padding: str
    pool_padding: str
    strided: int  # which convolution of a bottleneck has the stride
    epsilon: float


_KERAS_CV = _Style("v2_stack_{}_block{}", 1, "{}_conv_pad", "pool1_pool_pad", 1, 1.001e-5)
_KERAS_HUB = _Style("stack{}_block{}", 0, "{}_pad", "pool1_pad", 2, 1e-5)


def resnet(
    name: str,
    image_shape: Shape = (None, None, 3),
    output_stride: int = 8,
    dtype: DType = None,
    stages: tuple[str, ...] = STAGES,
) -> keras.Model:
    """KerasCV's ResNet of that name as a plain functional model from images to features.

    Layers, their names, and the order of weights are KerasCV's, so weights can be copied in both
    directions with `set_weights(get_weights())`. Every stride that is removed to reach the output
    stride dilates the layers that follow: the features are those of the strided network, computed
    at more positions. At output stride 8, the strided network's values are at every fourth position
    of stage 5.

    Two things differ from KerasCV. Strided windows are padded equally on both sides, as in the
    networks that ImageNet weights come from, whereas KerasCV pads unevenly on even sizes. And batch
    norm has PyTorch's momentum of 0.9, as in the authors' code, for short trainings.

    Args:
        name: a key of `BLOCKS`.
        image_shape: `(height, width, channels)`; height and width may be None.
        output_stride: ratio of the image's size to that of stage 5: 8, 16 or 32.
        dtype: dtype policy of all layers. Default: Keras' global one.
        stages: which features to return, of `"stage1"` to `"stage5"`.

    Returns:
        A `keras.Model` with random weights and a dict of outputs, `{"stage4": ..., "stage5": ...}`.

    Raises:
        ValueError: for an unknown name or output stride.

    Source: He et al., "Deep Residual Learning", arXiv:1512.03385.
    """
    one_of("backbone", name, tuple(BLOCKS))
    one_of("output_stride", output_stride, OUTPUT_STRIDES)
    bottleneck, blocks = BLOCKS[name]
    strided = _strided(_KERAS_CV, ((64, 7),), bottleneck, blocks, image_shape, dtype)
    return dilate(features_by_name(strided, name, stages), output_stride, image_shape[:2])


def deep_stem_resnet(
    stem: tuple[int, ...] = (64, 64, 128),
    blocks: tuple[int, ...] = (3, 4, 23, 3),
    image_shape: Shape = (None, None, 3),
    output_stride: int = 8,
    contract: bool = False,
    pool_rounds_up: bool = True,
    dtype: DType = None,
    stages: tuple[str, ...] = STAGES,
) -> keras.Model:
    """The ResNets that the authors' networks begin with, with KerasHub's layers and layer names.

    Three 3x3 convolutions replace one of 7x7; a bottleneck's stride is in its 3x3 convolution.

    | family | arguments                                                          |
    | ------ | ------------------------------------------------------------------ |
    | ccnet  | the defaults                                                       |
    | mmseg  | `stem=(32, 32, 64)`, `contract=True`, `pool_rounds_up=False`       |

    Args:
        stem: channels of the three convolutions.
        blocks: number of bottleneck blocks in each of the four stages.
        image_shape, output_stride, dtype, stages: as in `resnet`.
        contract: whether the first block of a dilated stage keeps the previous stage's dilation,
            which mmseg calls "contract dilation". See `dilate`.
        pool_rounds_up: whether max pooling rounds the size of its output up.

    Returns:
        As `resnet` does.

    Raises:
        ValueError: for another output stride.

    Source: the authors' code for arXiv:2211.15595; He et al., "Bag of Tricks", arXiv:1812.01187.
    """
    one_of("output_stride", output_stride, OUTPUT_STRIDES)
    convolutions = tuple((channels, 3) for channels in stem)
    strided = _strided(_KERAS_HUB, convolutions, True, blocks, image_shape, dtype, pool_rounds_up)
    features = features_by_name(strided, "deep_stem_resnet", stages)
    return dilate(features, output_stride, image_shape[:2], contract)


def _strided(style, stem, bottleneck, blocks, image_shape, dtype, pool_rounds_up=False):
    """The network at output stride 32, from the image to the last block."""
    maps = {"data_format": "channels_last", "dtype": dtype}

    def convolution(x, channels, window, stride, name):
        padding = "same" if window > 1 and stride == 1 else "valid"
        if window > 1 and stride > 1:
            x = layers.ZeroPadding2D(window // 2, name=style.padding.format(name), **maps)(x)
        x = layers.Conv2D(
            channels, window, stride, padding, use_bias=False, name=f"{name}_conv", **maps
        )(x)
        return layers.BatchNormalization(
            momentum=0.9, epsilon=style.epsilon, dtype=dtype, name=f"{name}_bn"
        )(x)

    def relu(x, name):
        return layers.Activation("relu", dtype=dtype, name=name)(x)

    def block(x, width, stride, project, name):
        windows = (1, 3, 1) if bottleneck else (3, 3)
        strided = style.strided if bottleneck else 1
        channels = 4 * width if bottleneck else width
        shortcut = convolution(x, channels, 1, stride, f"{name}_0") if project else x
        for i, window in enumerate(windows, 1):
            last = i == len(windows)
            x = convolution(
                x, channels if last else width, window, stride if i == strided else 1, f"{name}_{i}"
            )
            if not last:
                x = relu(x, f"{name}_{i}_relu")
        return relu(layers.Add(dtype=dtype, name=f"{name}_add")([shortcut, x]), f"{name}_out")

    x = images = keras.Input(tuple(image_shape))
    for i, (channels, window) in enumerate(stem, 1):
        x = relu(convolution(x, channels, window, 2 if i == 1 else 1, f"conv{i}"), f"conv{i}_relu")
    # The maps are rectified here, so a zero changes no maximum.
    zeros = ((1, 2), (1, 2)) if pool_rounds_up else 1
    x = layers.ZeroPadding2D(zeros, name=style.pool_padding, **maps)(x)
    x = layers.MaxPooling2D(3, 2, name="pool1_pool", **maps)(x)
    for stack, count in enumerate(blocks):
        for n in range(count):
            first = n == 0
            x = block(
                x,
                width=64 * 2**stack,
                stride=2 if first and stack > 0 else 1,
                project=first and (bottleneck or stack > 0),
                name=style.block.format(stack, n + style.first_block),
            )
    return keras.Model(images, x)


def features_by_name(
    model: keras.Model, name: str | None = None, stages: tuple[str, ...] = STAGES
) -> keras.Model | None:
    """The features of a model whose layers have a ResNet's names.

    Args:
        model: KerasCV's, KerasHub's or `keras.applications`' ResNet, of any size.
        name: name of the result. Default: the model's.
        stages: which features, from `"stage1"`, the stem before its pooling, to `"stage5"`.

    Returns:
        A functional model of the same layers with a dict of features as output, or None if they
        have other names.
    """
    last: dict[str, tuple[int, str]] = {}
    for layer in model.layers:
        stem = _STEM_OUTPUT.fullmatch(layer.name)
        if stem:
            last["stage1"] = max(last.get("stage1", (-1, "")), (int(stem[1]), layer.name))
        block = _BLOCK_OUTPUT.fullmatch(layer.name)
        if block:
            stage = f"stage{block['stage'] or int(block['stack']) + 2}"
            last[stage] = max(last.get(stage, (-1, "")), (int(block[3]), layer.name))
    if not set(stages) <= set(last):
        return None
    made = {call.operation.name: call.outputs[0] for call in calls(model)}
    outputs = {stage: made[last[stage][1]] for stage in stages}
    return keras.Model(model.input, outputs, name=name or model.name)

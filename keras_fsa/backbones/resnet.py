"""ResNets, built without a network and dilated to an output stride of 8 or 16."""

import re

import keras

from keras_fsa.arguments import one_of, optional_import
from keras_fsa.backbones.dilation import dilate
from keras_fsa.types import DType, Shape

BLOCKS = {
    "resnet18": ("basic_block", (2, 2, 2, 2)),
    "resnet34": ("basic_block", (3, 4, 6, 3)),
    "resnet50": ("block", (3, 4, 6, 3)),
    "resnet101": ("block", (3, 4, 23, 3)),
    "resnet152": ("block", (3, 8, 36, 3)),
}
OUTPUT_STRIDES = (8, 16, 32)

# The outputs of blocks: of KerasHub and KerasCV, whose stacks count from zero, and of
# keras.applications, whose names count as the paper does.
_BLOCK_OUTPUT = re.compile(r"(?:(?:v2_stack_|stack)(?P<stack>\d)|conv(?P<stage>\d))_block(\d+)_out")


def resnet(
    name: str, image_shape: Shape = (None, None, 3), output_stride: int = 8, dtype: DType = None
) -> keras.Model:
    """A KerasCV ResNet as a plain functional model from pictures to features.

    Every stride that is removed to reach the output stride dilates what follows it, so the features
    are those of the strided network, computed at more positions: at output stride 8 its values are
    found at every fourth position of stage 5. Where KerasCV pads unevenly, on even sizes, padding
    is made even, as in the networks that ImageNet weights come from.

    Args:
        name: a key of `BLOCKS`.
        image_shape: `(height, width, channels)`; height and width may be None.
        output_stride: ratio of the picture's size to that of stage 5: 8, 16 or 32.
        dtype: dtype policy of all layers. Default: Keras' global one.

    Returns:
        A `keras.Model` with random weights and the outputs `{"stage4": ..., "stage5": ...}`. It is
        free of KerasCV's classes: a saved one loads without that package.

    Raises:
        ValueError: for an unknown name or output stride.
        ImportError: where keras-cv is missing, with the pip command.

    Source: He et al., "Deep Residual Learning", arXiv:1512.03385.
    """
    one_of("backbone", name, tuple(BLOCKS))
    one_of("output_stride", output_stride, OUTPUT_STRIDES)
    keras_cv = optional_import("keras_cv", "tensorflow")
    block_type, blocks = BLOCKS[name]
    strided = keras_cv.models.ResNetBackbone(
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=list(blocks),
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=False,
        input_shape=tuple(image_shape),
        block_type=block_type,
    )
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())

    def edit(layer, config):
        config["dtype"] = policy
        if isinstance(layer, keras.layers.BatchNormalization):
            # PyTorch's, as in the authors' code. Keras' 0.99 lags behind short trainings.
            config["momentum"] = 0.9
        window = config.get("kernel_size") or config.get("pool_size") or (1, 1)
        strides = keras.tree.flatten(config.get("strides", 1))
        if config.get("padding") == "same" and max(window) > 1 and max(strides) > 1:
            config["padding"] = "valid"

    def call(layer, x, **kwargs):
        window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", (1,))
        if getattr(layer, "padding", None) == "valid" and window[0] > 1:
            # The maps that reach the pooling are rectified, so zeros do not show there.
            name = f"{layer.name}_pad"
            x = keras.layers.ZeroPadding2D(window[0] // 2, dtype=policy, name=name)(x)
        return layer(x, **kwargs)

    return dilate(
        features_by_name(strided, name),
        output_stride,
        image_shape[:2],
        edit=edit,
        call_function=call,
    )


def deep_stem_resnet(
    stem: tuple[int, ...] = (64, 64, 128),
    blocks: tuple[int, ...] = (3, 4, 23, 3),
    image_shape: Shape = (None, None, 3),
    output_stride: int = 8,
    contract: bool = False,
    pool_rounds_up: bool = True,
    dtype: DType = None,
) -> keras.Model:
    """The ResNets that the authors' networks begin with, of KerasHub's layers.

    Three 3x3 convolutions instead of one of 7x7; the stride in a bottleneck's 3x3 convolution.

    | family | arguments                                                          |
    | ------ | ------------------------------------------------------------------ |
    | ccnet  | the defaults                                                       |
    | mmseg  | `stem=(32, 32, 64)`, `contract=True`, `pool_rounds_up=False`       |

    Args:
        stem: channels of the three convolutions.
        blocks: number of bottleneck blocks in each of the four stages.
        image_shape, output_stride, dtype: as in `resnet`.
        contract: whether the first block of a dilated stage keeps the previous stage's dilation,
            which is "contract dilation" in mmseg. See `dilate`.
        pool_rounds_up: whether the max pooling rounds the size of its output up.

    Returns:
        As `resnet` does, free of KerasHub's classes.

    Raises:
        ValueError: for another output stride.
        ImportError: where keras-hub is missing, with the pip command.

    Source: the authors' code for arXiv:2211.15595; He et al., "Bag of Tricks", arXiv:1812.01187.
    """
    one_of("output_stride", output_stride, OUTPUT_STRIDES)
    keras_hub = optional_import("keras_hub", "weights")
    strided = keras_hub.models.ResNetBackbone(
        list(stem),
        [3] * len(stem),
        [64, 128, 256, 512],
        list(blocks),
        [1, 2, 2, 2],
        "bottleneck_block",
        image_shape=tuple(image_shape),
        data_format="channels_last",
        dtype=dtype,
    )

    def edit(layer, config):
        if layer.name == "pool1_pad" and pool_rounds_up:
            # Rectified maps: a zero at the end changes no maximum.
            config["padding"] = ((1, 2), (1, 2))

    features = features_by_name(strided, "deep_stem_resnet")
    return dilate(features, output_stride, image_shape[:2], contract, edit)


def features_by_name(model: keras.Model, name: str | None = None) -> keras.Model | None:
    """`{"stage4": ..., "stage5": ...}` of a model whose layers bear a ResNet's names.

    Args:
        model: KerasCV's, KerasHub's or `keras.applications`' ResNet, of any size.
        name: of the result. Default: the model's.

    Returns:
        A functional model of the same layers, or None where they bear other names.
    """
    last = {}
    for layer in model.layers:
        block = _BLOCK_OUTPUT.fullmatch(layer.name)
        if block:
            stage = int(block["stage"] or int(block["stack"]) + 2)
            last[stage] = max(last.get(stage, (-1, "")), (int(block[3]), layer.name))
    if not {4, 5} <= set(last):
        return None
    outputs = {f"stage{stage}": model.get_layer(last[stage][1]).output for stage in (4, 5)}
    return keras.Model(model.input, outputs, name=name or model.name)

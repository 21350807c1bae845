"""KerasCV's ResNets, built without a network and dilated to an output stride of 8 or 16."""

import re

import keras

from keras_fsa.arguments import one_of, optional_import

BLOCKS = {
    "resnet18": ("basic_block", (2, 2, 2, 2)),
    "resnet34": ("basic_block", (3, 4, 6, 3)),
    "resnet50": ("block", (3, 4, 6, 3)),
    "resnet101": ("block", (3, 4, 23, 3)),
    "resnet152": ("block", (3, 8, 36, 3)),
}
OUTPUT_STRIDES = (8, 16, 32)


def resnet(name, image_shape=(None, None, 3), output_stride=8, dtype=None):
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

    Source: He et al., "Deep Residual Learning", arXiv:1512.03385; dilation as in Chen et al.,
    arXiv:1606.00915.
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

    def edit(layer):
        config = layer.get_config()
        config["dtype"] = policy
        if isinstance(layer, keras.layers.Conv2D):
            _dilate(config, output_stride)
        if _pads_unevenly(config):
            config["padding"] = "valid"
        return layer.__class__.from_config(config)

    def call(layer, x, **kwargs):
        window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", (1,))
        if getattr(layer, "padding", None) == "valid" and window[0] > 1:
            # The maps that reach the pooling are rectified, so zeros do not show there.
            name = f"{layer.name}_pad"
            x = keras.layers.ZeroPadding2D(window[0] // 2, dtype=policy, name=name)(x)
        return layer(x, **kwargs)

    dilated = keras.models.clone_model(
        strided,
        input_tensors=keras.Input(batch_shape=strided.inputs[0].shape, name="pictures"),
        clone_function=edit,
        call_function=call,
    )
    return keras.Model(
        dilated.input,
        {
            f"stage{stack + 2}": dilated.get_layer(
                f"v2_stack_{stack}_block{blocks[stack]}_out"
            ).output
            for stack in (2, 3)
        },
        name=name,
    )


def _pads_unevenly(config):
    window = config.get("kernel_size") or config.get("pool_size") or (1, 1)
    return config.get("padding") == "same" and max(window) > 1 and max(config["strides"]) > 1


def _dilate(config, output_stride):
    """Take the stride out of a convolution that lies beyond the output stride, and dilate it."""
    stack = re.match(r"v2_stack_(\d)_", config["name"])
    if stack is None:
        return
    stride = 4 * 2 ** int(stack[1])
    before, after = (max(1, s // output_stride) for s in (max(4, stride // 2), stride))
    removed = max(config["strides"]) > 1 and after > before
    if removed:
        config["strides"] = (1, 1)
    if max(config["kernel_size"]) > 1:
        rate = before if removed else after
        config["dilation_rate"] = (rate, rate)

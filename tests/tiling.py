"""Small networks with every kind of layer that a tile has to get right, and tiles against whole."""

import keras
import numpy as np
from keras import layers

import keras_fsa
from keras_fsa.backbones.efficientnet_lite import strided_zeros
from keras_fsa.large import segment
from keras_fsa.layers import ChannelGain, FrequencyBands, FrequencySelfAttention
from keras_fsa.layers.resize_like import ResizeLike
from tests import test_inference
from tests.helpers import randomize


def small_model(**settings):
    return test_inference.small_model(**{"normalization": "imagenet", **settings})


def same(x):
    """Strided "same" padding, whose sides depend on the parity of the size: stride 4."""
    x = layers.Conv2D(6, 7, 2, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    return layers.Conv2D(8, 3, padding="same", dilation_rate=2, activation="relu")(x)


def explicit(x):
    """Padding by layers of its own, and max pooling that rounds up: stride 4."""
    x = layers.ZeroPadding2D(2)(x)
    x = layers.Conv2D(6, 5, 2)(x)
    x = layers.ReLU()(x)
    x = layers.ZeroPadding2D(((1, 2), (1, 2)))(x)
    x = layers.MaxPooling2D(3, 2)(x)
    return x + layers.Conv2D(6, 3, padding="same")(x)


def mixed(x):
    """Depthwise and separable convolutions, average pooling, cropping: stride 8 and back to 4."""
    x = layers.SeparableConv2D(5, 3, 2, padding="same")(x)
    x = layers.DepthwiseConv2D(4, 2, padding="same")(x)
    x = layers.AveragePooling2D(3, 2, padding="same")(x)
    x = layers.Cropping2D(((1, 0), (0, 1)))(x)
    return layers.UpSampling2D(2, interpolation="bilinear")(x)


def transposed(x):
    """Transposed convolution and nearest neighbours, a layer that is called twice: stride 2."""
    twice = layers.Conv2D(5, 3, padding="same")
    x = twice(layers.Conv2D(5, 4, 4, padding="same")(x))
    x = layers.Conv2DTranspose(5, 3, 2, padding="same")(twice(x))
    return layers.UpSampling2D(2)(layers.MaxPooling2D(2)(x))


def padded(x):
    """As EfficientNet-Lite pads, strided and, where it was strided, dilated: stride 2."""
    x = layers.ZeroPadding2D(2 * (strided_zeros(3, 2),))(x)
    x = layers.Conv2D(5, 3, 2)(x)
    x = layers.ZeroPadding2D(((0, 4), (0, 4)))(x)
    x = layers.Conv2D(5, 3, dilation_rate=2)(x)
    return layers.DepthwiseConv2D(5, padding="same", dilation_rate=2)(x)


def joined(x):
    """A coarse map at the size of a finer one, whose sizes may not be in their strides' ratio."""
    fine = layers.Conv2D(4, 3, 2, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(layers.Conv2D(4, 3, 2, padding="same")(fine))
    return layers.Concatenate()([ResizeLike(align_corners=True)([x, fine]), fine])


def stages_of(stride):
    """A backbone of stage 1, of stride 2, stage 2, of stride 4, stage 3, of 8, and stage 5."""

    def backbone(x):
        x = layers.Conv2D(4, 3, 2, padding="same", activation="relu")(x)
        stages = {"stage1": x, "stage2": layers.MaxPooling2D(3, 2, padding="same")(x)}
        stages["stage3"] = layers.Conv2D(5, 3, 2, padding="same")(stages["stage2"])
        x = layers.ReLU()(stages["stage3"])
        for _ in range({8: 0, 16: 1, 32: 2}[stride]):
            x = layers.Conv2D(5, 3, 2, padding="same", activation="relu")(x)
        return {**stages, "stage5": layers.Conv2D(6, 1)(x)}

    return backbone


BACKBONES = (same, explicit, mixed, transposed, padded, joined)


def model_of(backbone, rng, **settings):
    image = keras.Input((None, None, 3))
    common = {"frequencies": 3, "head_channels": 8, "normalization": "imagenet"}
    stages = backbone(image)
    model = keras_fsa.FsaNet(
        5,
        keras.Model(image, stages if isinstance(stages, dict) else {"stage5": stages}),
        auxiliary_loss_weight=0,
        **{**common, **settings},
    )
    randomize(model, rng)
    for weight in model.head.weights:
        # The denominator of a normalised affinity of first order may be near zero, which shows the
        # rounding of anyone who divides by it.
        if weight.name == "query_kernel":
            weight.assign(0.1 * weight)
    return model


def bands():
    return FrequencyBands([FrequencySelfAttention(2), (((2, 4), (0, 4)), ChannelGain())])


def without_constant(affinity, **settings):
    return FrequencySelfAttention(((1, 3), (0, 3)), affinity, use_bias=True, **settings)


def mmseg(affinity, recurrence=2, **settings):
    widths = {"key_dim": 4, "value_dim": 4, "use_bias": True}
    return FrequencySelfAttention(
        3, affinity, recurrence, residual="batch_norm", **widths, **settings
    )


def image_of(rng, height, width, channels=3):
    return rng.integers(0, 256, (height, width, channels)).astype("uint8")


def error(model, image, **settings):
    """The largest difference of tiles to the whole image, on the scale of the logits."""
    want = np.asarray(model.predict_on_batch(image[None]))[0]
    sink = np.zeros(want.shape, want.dtype)
    got = segment(model, image, sink, output="logits", verbose=False, **settings)
    assert want.std() > 1e-3
    return np.abs(got - want).max() / np.abs(want).max()

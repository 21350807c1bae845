"""What any backbone must offer, and how one is found."""

import keras

from keras_fsa.arguments import one_of
from keras_fsa.backbones import resnet


def build_backbone(backbone, image_shape, output_stride, dtype):
    """A model from a picture `(B, H, W, channels)` to `{"stage4": ..., "stage5": ...}`.

    Args:
        backbone: the name of a ResNet, or a Keras model that meets the contract below, which is
            taken as it comes.
        image_shape: `(height, width, channels)`; height and width may be None.
        output_stride: 8, 16 or 32; for named backbones.
        dtype: dtype policy of a named backbone.

    The contract: `backbone` is a `keras.Model` of one input of rank 4 with `image_shape[-1]`
    channels, last, whose outputs are a dict with the feature maps `"stage5"` and, where an
    auxiliary head is wanted, `"stage4"`, each with a known number of channels.

    Raises:
        ValueError: for an unknown name or output stride, or what is neither a name nor a model.
    """
    if isinstance(backbone, str):
        one_of("backbone", backbone, tuple(resnet.BLOCKS))
        return resnet.resnet(backbone, image_shape, output_stride, dtype)
    if not isinstance(backbone, keras.Model):
        raise ValueError(
            "`backbone` must be the name of a ResNet or a Keras model. "
            f"Received: backbone={backbone!r}. The known names are {', '.join(resnet.BLOCKS)}."
        )
    return backbone


def feature_shapes(backbone, image_shape, needed=("stage5",)):
    """Shapes of the backbone's features for a picture of `image_shape`, the contract checked.

    Raises:
        ValueError: naming what the backbone misses.
    """

    def reject(what):
        raise ValueError(
            "A `backbone` must take one picture, channels last, and give a dict with the maps "
            f"{' and '.join(repr(name) for name in needed)}. Received: backbone={backbone.name!r}, "
            f"{what}. Wrap it: keras.Model(model.input, "
            '{"stage4": model.get_layer(...).output, "stage5": model.get_layer(...).output}).'
        )

    if not isinstance(getattr(backbone, "output", None), dict):
        reject(f"a {type(backbone).__name__} whose outputs are not a dict")
    missing = [name for name in needed if name not in backbone.output]
    if missing:
        reject(f"which lacks {missing} and has {sorted(backbone.output)}")
    shape = getattr(backbone.input, "shape", None)
    if shape is None or len(shape) != 4:
        reject(f"whose input is {backbone.input}")
    if shape[-1] != image_shape[-1]:
        reject(f"whose input has {shape[-1]} channels where image_shape={tuple(image_shape)}")
    shapes = backbone.compute_output_shape((None, *image_shape))
    for name in needed:
        if len(shapes[name]) != 4 or shapes[name][-1] is None:
            reject(f"whose {name!r} has the shape {shapes[name]}")
    return shapes

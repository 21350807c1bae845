"""What any backbone must offer, and how one is found."""

import os
import re

import keras

from keras_fsa.arguments import one_of
from keras_fsa.backbones import imagenet, resnet
from keras_fsa.backbones.dilation import dilate
from keras_fsa.checkpoints import PYTORCH_FILES, load_pytorch_weights
from keras_fsa.types import DType, Path, Shape


def build_backbone(
    backbone: str | keras.Model,
    image_shape: Shape,
    output_stride: int,
    dtype: DType,
    weights: Path | None = None,
) -> keras.Model:
    """A model from a picture `(B, H, W, channels)` to `{"stage4": ..., "stage5": ...}`.

    Args:
        backbone: the name of a ResNet, or a Keras model, see below.
        image_shape: `(height, width, channels)`; height and width may be None.
        output_stride: 8, 16 or 32; for ResNets.
        dtype: dtype policy of a named backbone; a model keeps its own.
        weights: `"imagenet"` for a named backbone, a file, or None, see `load_backbone_weights`.

    The contract: a backbone is a `keras.Model` of one input of rank 4 with `image_shape[-1]`
    channels, last, whose outputs are a dict with the feature maps `"stage5"` and, where an
    auxiliary head is wanted, `"stage4"`, each with a known number of channels. Of a model that is

    - such a one, the features are taken as they come;
    - a ResNet by the names of its layers (KerasHub's, resnet_vd too, KerasCV's, and those of
      `keras.applications`), a copy is dilated to the output stride, and has its weights;
    - any other of KerasHub with a feature pyramid, the two coarsest levels are taken as they come.

    Raises:
        ValueError: for an unknown name or output stride, what is neither a name nor a model, or
            weights that do not fit.
    """
    if isinstance(backbone, str):
        one_of("backbone", backbone, tuple(resnet.BLOCKS))
        if weights == "imagenet":
            imagenet.check_name(backbone)
        model = resnet.resnet(backbone, image_shape, output_stride, dtype)
    elif isinstance(backbone, keras.Model):
        model = _features(backbone, image_shape, output_stride)
    else:
        raise ValueError(
            "`backbone` must be the name of a ResNet or a Keras model. "
            f"Received: backbone={backbone!r}. The known names are {', '.join(resnet.BLOCKS)}."
        )
    if weights is not None:
        load_backbone_weights(model, weights, backbone if isinstance(backbone, str) else None)
    return model


def _features(backbone, image_shape, output_stride):
    if isinstance(getattr(backbone, "output", None), dict) and "stage5" in backbone.output:
        return backbone
    features = resnet.features_by_name(backbone)
    if features is not None:
        one_of("output_stride", output_stride, resnet.OUTPUT_STRIDES)
        return dilate(features, output_stride, image_shape[:2])
    levels = getattr(backbone, "pyramid_outputs", {})
    names = [name for name in levels if re.fullmatch(r"P\d+", name)]
    if len(names) < 2:
        return backbone
    *_, stage4, stage5 = sorted(names, key=lambda name: int(name[1:]))
    outputs = {"stage4": levels[stage4], "stage5": levels[stage5]}
    return keras.Model(backbone.input, outputs, name=backbone.name)


def load_backbone_weights(backbone: keras.Model, weights: Path, name: str | None = None) -> None:
    """Load a file, or ImageNet's weights, into a backbone.

    Args:
        backbone: what `build_backbone` makes.
        weights: `"imagenet"`; or the path of a file: `.weights.h5` (of this backbone's
            `save_weights`), another `.h5` (ImageNet's, of `keras.applications`' ResNets without
            top), or PyTorch's, see `load_pytorch_weights`.
        name: of a named backbone: `"imagenet"` and its files are for those.

    Raises:
        ValueError: for a file that does not fit, or of another kind.
        FileNotFoundError: where there is none.
        ConnectionError: where a download fails; it says which file to put where.
    """
    if weights == "imagenet":
        imagenet.load(backbone, name)
        return
    path = os.fspath(weights)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"`backbone_weights` must be 'imagenet' or a file. Received: backbone_weights={path!r}"
            ", which is no file. Give the path of one that exists."
        )
    if path.endswith(".weights.h5"):
        try:
            backbone.load_weights(path)
        except ValueError as error:
            # Keras' message goes on with all values of a weight.
            reason = " ".join(str(error).split("Target variable")[0].split())
            raise ValueError(
                "A file of weights must be that of the same backbone. Received: "
                f"backbone_weights={path!r} for {backbone.name!r}: {reason[:500]} Name the "
                "backbone that the file was saved from."
            ) from error
    elif path.endswith(".h5"):
        imagenet.load(backbone, name, path)
    elif path.endswith(PYTORCH_FILES):
        load_pytorch_weights(backbone, path)
    else:
        raise ValueError(
            "`backbone_weights` must be a file of weights: .weights.h5, .h5, "
            f"{', '.join(PYTORCH_FILES)}. Received: backbone_weights={path!r}. Rename it after "
            "what it is."
        )


def feature_shapes(
    backbone: keras.Model, image_shape: Shape, needed: tuple[str, ...] = ("stage5",)
) -> dict[str, Shape]:
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

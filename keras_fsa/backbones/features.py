"""The contract of backbones, and how one is built."""

import math
import os
from typing import NoReturn

import keras

from keras_fsa.arguments import one_of
from keras_fsa.backbones import imagenet
from keras_fsa.backbones.dilation import dilate
from keras_fsa.backbones.efficientnet_lite import SCALES, efficientnet_lite
from keras_fsa.backbones.resnet import BLOCKS, OUTPUT_STRIDES, STAGES, features_by_name, resnet
from keras_fsa.backbones.stages import find_stages, strided_blocks
from keras_fsa.checkpoints import PYTORCH_FILES, check_values, load_pytorch_weights
from keras_fsa.graphs import sources
from keras_fsa.types import DType, Path, Shape

NAMES = (*BLOCKS, *SCALES)


def build_backbone(
    backbone: str | keras.Model,
    image_shape: Shape,
    output_stride: int | None,
    dtype: DType,
    weights: Path | None = None,
    stages: tuple[str, ...] = STAGES,
) -> keras.Model:
    """A model from an image `(B, H, W, channels)` to `{"stage4": ..., "stage5": ...}`.

    Args:
        backbone: one of `NAMES`, or a Keras model, see below.
        image_shape: `(height, width, channels)`; height and width may be None.
        output_stride: stride of stage 5: 8, 16 or 32. None: 8 for a named backbone or a ResNet;
            another model keeps its own.
        dtype: dtype policy of a named backbone; a model keeps its own.
        weights: `"imagenet"` for a named backbone, a file, or None, see `load_backbone_weights`.
        stages: which features to return, of `"stage1"` to `"stage5"`, unless the model already
            returns features.

    The contract: a backbone is a `keras.Model` with one channels-last input of rank 4 with
    `image_shape[-1]` channels. Its outputs are a dict with the feature map `"stage5"`; `"stage4"`
    if an auxiliary head is wanted; and the stages of any low-level maps wanted. Each has a known
    number of channels. The features are found as follows:

    - a model that fulfils the contract: its outputs;
    - a ResNet by the names of its layers (KerasHub's, including resnet_vd, KerasCV's, and those of
      `keras.applications`): the last feature of each stage;
    - any other model: what `find_stages` finds.

    If the features are coarser than the output stride, a copy of the model is dilated, with its
    weights; any functional model of convolutions will do, see `dilate`.

    Raises:
        ValueError: for an unknown name or output stride, anything that is neither a name nor a
            model, a model that cannot have the output stride, or weights that do not fit.
        ImportError: if the package of ImageNet weights is missing, with the pip command.
    """
    one_of("output_stride", output_stride, (*OUTPUT_STRIDES, None))
    if isinstance(backbone, str):
        one_of("backbone", backbone, NAMES)
        if weights == "imagenet":
            imagenet.check_name(backbone)
        build = resnet if backbone in BLOCKS else efficientnet_lite
        model = build(backbone, image_shape, output_stride or 8, dtype, stages=stages)
    elif isinstance(backbone, keras.Model):
        _check_channels_last(backbone, image_shape[-1])
        model = _features(backbone, image_shape, output_stride, stages)
    else:
        raise ValueError(
            f"`backbone` must be the name of a backbone or a Keras model. "
            f"Received: backbone={backbone!r}. The known names are {', '.join(NAMES)}."
        )
    if weights is not None:
        load_backbone_weights(model, weights, backbone if isinstance(backbone, str) else None)
    return model


def _features(backbone, image_shape, output_stride, stages):
    output = getattr(backbone, "output", None)
    if isinstance(output, dict) and "stage5" in output:
        if output_stride is None:
            return backbone
        return _at_stride(backbone, image_shape, output_stride)
    features = features_by_name(backbone, stages=stages)
    if features is not None:
        return dilate(features, output_stride or 8, image_shape[:2])
    found = find_stages(backbone)
    if not found:
        return backbone
    missing = [stage for stage in stages if stage not in found]
    if missing:
        raise ValueError(
            f"`backbone` must have the maps {stages}. Received: backbone={backbone.name!r}, "
            f"which has {sorted(found)}. Take another `low_level`, or none."
        )
    outputs = {stage: found[stage] for stage in stages}
    features = keras.Model(_input_of(outputs["stage5"]), outputs, name=backbone.name)
    if output_stride is not None:
        features = _at_stride(features, image_shape, output_stride)
    _check_size(features, image_shape)
    return features


def _input_of(tensor):
    """The input that a tensor of a functional model with one input comes from."""
    (images,) = (t for t in sources(tensor) if len(t.shape) == 4)
    return images


def _check_channels_last(backbone, channels):
    shape = getattr(getattr(backbone, "input", None), "shape", None)
    if shape is not None and len(shape) == 4 and shape[1] == channels != shape[-1]:
        raise ValueError(
            f"`backbone` must take images with the channels last. Received: backbone="
            f"{backbone.name!r}, whose input has the shape {tuple(shape)}. Build it after "
            "keras.config.set_image_data_format('channels_last')."
        )


def _check_size(backbone, image_shape):
    """Check the image size: transformers are built for one size, other models take any."""
    size = tuple(backbone.input.shape[1:3])
    if None not in size and size != tuple(image_shape[:2]):
        raise ValueError(
            "`image_shape` must have the size that the backbone is built for. Received: "
            f"image_shape={tuple(image_shape)} for backbone={backbone.name!r} of {size}. Pass "
            f"image_shape=({size[0]}, {size[1]}, {image_shape[-1]}), or build the backbone for "
            "None, None where it allows that."
        )


def _at_stride(backbone, image_shape, output_stride):
    """The model, or a dilated copy, with stage 5 at the output stride."""

    def reject(reason):
        raise ValueError(
            f"`output_stride` must be one that the backbone's stage 5 can have. Received: "
            f"output_stride={output_stride} for backbone={backbone.name!r}, {reason}. Leave "
            "`output_stride` out to take the features as they come."
        )

    stride = _stride(backbone, image_shape)
    if stride == output_stride:
        return backbone
    if stride < output_stride:
        reject(f"whose stage 5 is finer, at stride {stride}")
    if not hasattr(backbone, "operations"):
        reject(f"at stride {stride}: a {type(backbone).__name__}, not a functional model")
    blocks = strided_blocks(backbone)
    if blocks:
        reject(f"at stride {stride}: strides within {', '.join(blocks)} cannot be removed")
    dilated = dilate(backbone, output_stride, image_shape[:2])
    if _stride(dilated, image_shape) != output_stride:
        reject(f"at stride {stride}, which has more than the layers that `dilate` knows")
    return dilated


def _stride(backbone, image_shape):
    """The ratio of the image's height to that of stage 5, rounded to a power of two."""
    height, width, channels = image_shape
    height, width = height or 1024, width or 1024
    shape = backbone.compute_output_shape((1, height, width, channels))["stage5"]
    return 2 ** round(math.log2(height / shape[1]))


def load_backbone_weights(backbone: keras.Model, weights: Path, name: str | None = None) -> None:
    """Load a file, or ImageNet's weights, into a backbone.

    Args:
        backbone: a result of `build_backbone`.
        weights: `"imagenet"`; or the path of a file: `.weights.h5` (from this backbone's
            `save_weights`), another `.h5` (ImageNet's, of `keras.applications`' ResNets without
            top), or PyTorch's, see `load_pytorch_weights`.
        name: name of a named backbone, which alone can take `"imagenet"` and its files.

    Raises:
        ValueError: for a file that does not fit, is damaged, or is of another kind.
        ImportError: if the package of ImageNet weights is missing, with the pip command.
        FileNotFoundError: if there is no such file.
        ConnectionError: if a download fails; it says which file to put where.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            "`backbone_weights` must be 'imagenet', the path of a file, or None. Received: "
            f"backbone_weights={weights!r}. Give the path of a file that exists."
        )
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
        except Exception as error:
            # Keras' message goes on with all values of a weight.
            reason = " ".join(str(error).split("Target variable")[0].split())
            raise ValueError(
                "A file of weights must be a whole one, of the same backbone. Received: "
                f"backbone_weights={path!r} for {backbone.name!r}: {reason[:500]} Name the "
                "backbone that the file was saved from."
            ) from error
        check_values(repr(path), {weight.path: weight.numpy() for weight in backbone.weights})
    elif path.endswith(".h5"):
        imagenet.load(backbone, name, path)
    elif path.endswith(PYTORCH_FILES):
        load_pytorch_weights(backbone, path)
    else:
        raise ValueError(
            "`backbone_weights` must be a file of weights: .weights.h5, .h5, "
            f"{', '.join(PYTORCH_FILES)}. Received: backbone_weights={path!r}. Give the file "
            "the ending of its kind."
        )


def feature_shapes(
    backbone: keras.Model, image_shape: Shape, needed: tuple[str, ...] = ("stage5",)
) -> dict[str, Shape]:
    """Shapes of the backbone's features for an image of `image_shape`, the contract checked.

    Raises:
        ValueError: naming what the backbone lacks.
    """
    # The usual wrapper has stage 4, too.
    names = sorted({"stage4", *needed})
    outputs = ", ".join(f'"{name}": model.get_layer(...).output' for name in names)

    def reject(what: str, fix: str = "Wrap") -> NoReturn:
        raise ValueError(
            "A `backbone` must take one image, channels last, and give a dict with the maps "
            f"{' and '.join(repr(name) for name in needed)}. Received: backbone={backbone.name!r}, "
            f"{what}. {fix} it: keras.Model(model.input, {{{outputs}}})."
        )

    if not isinstance(getattr(backbone, "output", None), dict):
        reject(f"a {type(backbone).__name__} whose outputs are not a dict")
    missing = [name for name in needed if name not in backbone.output]
    if missing:
        fix = (
            "Leave out the auxiliary head by auxiliary_loss_weight=0, or wrap"
            if (missing == ["stage4"])
            else "Wrap"
        )
        reject(f"which lacks {missing} and has {sorted(backbone.output)}", fix)
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

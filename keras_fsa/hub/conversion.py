"""Conversion between `FsaNet` and KerasHub's task: same layers, same weights, same logits."""

import os
from typing import Any

import keras

from keras_fsa.hub.backbone import PARTS, SETTINGS, FsaNetBackbone, without_classifier
from keras_fsa.hub.preprocessing import FsaNetImageConverter, FsaNetImageSegmenterPreprocessor
from keras_fsa.hub.segmenter import FsaNetImageSegmenter
from keras_fsa.models.attention import in_head
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.types import Path
from keras_fsa.weights import copy_weights


def from_fsanet(
    model: FsaNet, preprocessor: FsaNetImageSegmenterPreprocessor | None = None
) -> FsaNetImageSegmenter:
    """A KerasHub task that is a copy of an `FsaNet`, weights included.

    Args:
        model: an `FsaNet`.
        preprocessor: the task's preprocessor. Default: one that leaves images as they are.

    Returns:
        A task whose logits are those of `model`, compiled with its defaults.

    Raises:
        ValueError: for anything else, or for a head whose last layers are not named as FsaNet's.
    """
    if not isinstance(model, FsaNet):
        raise ValueError(
            f"`model` must be an FsaNet. Received: model={model!r}. Pass a network of another "
            "kind as the image encoder of an FsaNetBackbone."
        )
    config = model.get_config()
    trunk = without_classifier(model.head)
    parts = {"image_encoder": config["backbone"], **{name: config[name] for name in PARTS}}
    if "head" in config:
        parts["head"] = keras.saving.serialize_keras_object(trunk)
    for name, part in parts.items():
        # Here, where they keep the dtype policies that they have.
        if isinstance(part, dict) and not in_head(part):
            parts[name] = keras.saving.deserialize_keras_object(part)
    backbone = FsaNetBackbone.from_config(
        {
            **{name: config[name] for name in (*SETTINGS, "dtype")},
            **parts,
            "auxiliary": model.auxiliary_head is not None,
        }
    )
    task = FsaNetImageSegmenter(
        backbone,
        model.num_classes,
        preprocessor or FsaNetImageSegmenterPreprocessor(FsaNetImageConverter()),
        model.dropout,
        model.auxiliary_loss_weight,
        model.class_names,
        model.palette,
        model.activation,
    )
    _copy(model.backbone, backbone.image_encoder)
    _copy(trunk, backbone.head)
    _copy(model.head.get_layer("logits"), task.classifier)
    if model.auxiliary_head is not None:
        _copy(without_classifier(model.auxiliary_head), backbone.auxiliary_head)
        _copy(model.auxiliary_head.get_layer("logits"), task.auxiliary_classifier)
    return task


def to_fsanet(task: FsaNetImageSegmenter) -> FsaNet:
    """An `FsaNet` that is a copy of a KerasHub task, weights included.

    The preprocessor is dropped: an `FsaNet` takes images of any size.

    Args:
        task: an `FsaNetImageSegmenter`.

    Returns:
        An `FsaNet`, not compiled, whose logits are those of `task`.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(task, FsaNetImageSegmenter):
        raise ValueError(
            f"`task` must be an FsaNetImageSegmenter. Received: task={task!r}. Load it by "
            "keras_hub.models.ImageSegmenter.from_preset."
        )
    backbone = task.backbone
    config = backbone.get_config()
    head = {}
    if "head" in config:
        # What `without_classifier` took away.
        features = keras.saving.deserialize_keras_object(config["head"])
        x = type(task.classifier_dropout).from_config(
            {**task.classifier_dropout.get_config(), "name": "dropout"}
        )(features.output)
        x = keras.layers.Conv2D.from_config(task.classifier.get_config())(x)
        head = {"head": keras.Model(features.input, x, name=features.name)}
    auxiliary = task.auxiliary_classifier is not None
    model = FsaNet.from_config(
        {
            **{name: config[name] for name in (*SETTINGS, *PARTS, "dtype")},
            **head,
            "backbone": config["image_encoder"],
            "num_classes": task.num_classes,
            "dropout": task.dropout,
            "class_names": task.class_names,
            "palette": task.palette,
            "activation": task.activation,
            "auxiliary_loss_weight": task.auxiliary_loss_weight if auxiliary else 0,
        }
    )
    _copy(backbone.image_encoder, model.backbone)
    _copy(backbone.head, model.head)
    _copy(task.classifier, model.head.get_layer("logits"))
    if auxiliary:
        _copy(backbone.auxiliary_head, model.auxiliary_head)
        _copy(task.auxiliary_classifier, model.auxiliary_head.get_layer("logits"))
    return model


def load_fsanet(preset: Path, load_weights: bool = True, **arguments: Any) -> FsaNet:
    """An `FsaNet` from a preset's folder or handle; `FsaNet.from_preset` calls it for these.

    Args:
        preset: a folder that `save_to_preset` wrote, `"hf://..."` or `"kaggle://..."`.
        load_weights: whether to load the weights as well.
        **arguments: `num_classes`, with which the last convolutions are new; `dropout`,
            `auxiliary_loss_weight`, `activation`, `dtype`.

    Raises:
        ValueError: for another argument, or anything that is not a preset of an FsaNet.
    """
    known = ("num_classes", "dropout", "auxiliary_loss_weight", "activation", "dtype")
    for name, value in arguments.items():
        if name not in known:
            raise ValueError(
                f"`{name}` cannot be changed in a network that is loaded from a preset's folder or "
                f"handle. Received: {name}={value!r}. Leave it out: {', '.join(known)} can be."
            )
    task = FsaNetImageSegmenter.from_preset(
        os.fspath(preset), load_weights=load_weights, **arguments
    )
    return to_fsanet(task)


def _copy(source, target):
    """Copy weights, and whether they are trained.

    Layers are matched by name, since two models may hold the same layers in another order.
    """
    if not isinstance(source, keras.Model) or not hasattr(source, "operations"):
        copy_weights(source, target)
        if not source.trainable:
            target.trainable = False
        return
    for layer in source.layers:
        if layer.weights:
            _copy(layer, target.get_layer(layer.name))

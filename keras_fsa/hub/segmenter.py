"""FsaNet as a KerasHub task."""

import json
import os
from collections import OrderedDict
from typing import Any

import keras

from keras_fsa.arguments import integer, number, optional_import
from keras_fsa.classes import checked_names, checked_palette, choose_activation
from keras_fsa.compilation import announces_xla
from keras_fsa.files import whole_file
from keras_fsa.hub.backbone import FsaNetBackbone
from keras_fsa.hub.card import write_card
from keras_fsa.hub.preprocessing import FsaNetImageSegmenterPreprocessor
from keras_fsa.layers.resize_like import ResizeLike
from keras_fsa.losses import CrossEntropy
from keras_fsa.metrics import IGNORE_LABEL, mean_iou
from keras_fsa.models.heads import MAPS
from keras_fsa.models.masks import check_data, check_masks
from keras_fsa.models.objective import as_loss, loss_weight, only_loss, with_auxiliary
from keras_fsa.models.recovery import recovers
from keras_fsa.models.speed import use_speed_paths
from keras_fsa.portable import portable_config
from keras_fsa.spectral import token_dtype
from keras_fsa.types import Path

ImageSegmenter: Any = optional_import("keras_hub", "hub").models.ImageSegmenter


@announces_xla
@recovers
@keras.saving.register_keras_serializable(package="keras_fsa")
class FsaNetImageSegmenter(ImageSegmenter):
    """`FsaNet` as a KerasHub task: the same network, in KerasHub's presets.

        task = keras_hub.models.ImageSegmenter.from_preset("./my_fsanet")
        task.fit(images, masks)

    `fit`, `evaluate` and `predict` first pass images and masks through the preprocessor. Masks are
    integer classes, or with the sigmoid 0 and 1 for each class; 255 means "ignore this pixel", see
    `keras_fsa.classes`.

    Args:
        backbone: an `FsaNetBackbone`.
        num_classes: number of classes, at most 255.
        preprocessor: an `FsaNetImageSegmenterPreprocessor`, or None for none.
        dropout: share of channels dropped before the last convolution, in training.
        auxiliary_loss_weight: weight of the auxiliary head's loss, if the backbone has such a head.
        class_names, palette, activation: as in `FsaNet`. The output is logits with any activation.
        **kwargs: of `keras_hub.models.ImageSegmenter`: `name`, `compile`.

    Call arguments:
        images: `(B, H, W, channels)`, RGB from 0 to 255.
        training: whether batch norm and dropout are in training mode.

    Output:
        Logits `(B, H, W, num_classes)`, float32. With `training=True` and an auxiliary head, a dict
        `{"logits": ..., "auxiliary": ...}` of two such maps, as `FsaNet` returns it.

    Raises:
        ValueError: for a wrong argument.

    Source: Zhang, Panahi, Gao, arXiv:2211.15595.
    """

    backbone_cls = FsaNetBackbone
    preprocessor_cls = FsaNetImageSegmenterPreprocessor

    def __init__(
        self,
        backbone: FsaNetBackbone,
        num_classes: int,
        preprocessor: FsaNetImageSegmenterPreprocessor | None = None,
        dropout: float = 0.1,
        auxiliary_loss_weight: float = 0.4,
        class_names: Any = None,
        palette: Any = None,
        activation: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(backbone, FsaNetBackbone):
            raise ValueError(
                "`backbone` must be an FsaNetBackbone. Received: "
                f"backbone={backbone!r}. Pass another network as its image encoder: "
                "FsaNetBackbone(network)."
            )
        integer("num_classes", num_classes, maximum=IGNORE_LABEL)
        number("dropout", dropout, minimum=0, below=1)
        number("auxiliary_loss_weight", auxiliary_loss_weight, minimum=0)
        # Before KerasHub's constructor, which compiles.
        self.num_classes = num_classes
        self.activation = choose_activation(activation, num_classes)
        policy = backbone.dtype_policy
        wide = token_dtype(policy.compute_dtype)

        def classifier(prefix=""):
            """Dropout of whole channels, then logits, which are float32 under mixed precision."""
            return (
                keras.layers.SpatialDropout2D(
                    dropout, **MAPS, dtype=policy, name=f"{prefix}dropout"
                ),
                keras.layers.Conv2D(num_classes, 1, **MAPS, dtype=wide, name=f"{prefix}logits"),
            )

        dropped, logits = classifier()
        resize = ResizeLike(backbone.align_corners, dtype=wide, name="resize")
        images = backbone.input
        features = backbone(images)
        outputs = resize([logits(dropped(features["features"])), images])
        super().__init__(inputs=images, outputs=outputs, **{"name": "fsanet", **kwargs})
        self.backbone = backbone
        self.align_corners = backbone.align_corners
        self.preprocessor = preprocessor
        self.class_names = checked_names(class_names, num_classes)
        self.palette = checked_palette(palette, num_classes)
        self.dropout = dropout
        self.auxiliary_loss_weight = auxiliary_loss_weight
        self.classifier_dropout, self.classifier, self.resize = dropped, logits, resize
        # Used in training only, so no part of the graph from the images to the logits.
        self.auxiliary_dropout: Any = None
        self.auxiliary_classifier: Any = None
        if auxiliary_loss_weight and "auxiliary" in features:
            dropped, logits = classifier("auxiliary_")
            logits.build(features["auxiliary"].shape)
            self.auxiliary_dropout, self.auxiliary_classifier = dropped, logits
        use_speed_paths(self)

    def call(self, inputs, training=None, mask=None):
        if not training or self.auxiliary_classifier is None:
            return super().call(inputs, training=training, mask=mask)
        features = self.backbone(inputs, training=training)
        logits = self.classifier(self.classifier_dropout(features["features"], training=training))
        auxiliary = self.auxiliary_classifier(
            self.auxiliary_dropout(features["auxiliary"], training=training)
        )
        # In this order: a functional model around this one takes the first.
        return OrderedDict(
            logits=self.resize([logits, inputs]), auxiliary=self.resize([auxiliary, inputs])
        )

    def compile(
        self, optimizer: Any = "auto", loss: Any = "auto", *, metrics: Any = "auto", **kwargs: Any
    ) -> None:
        """Configure training, with the defaults of `FsaNet` for whatever is `"auto"`.

        Args:
            optimizer: `"auto"`: SGD at a learning rate of 0.01 with a momentum of 0.9.
            loss: `"auto"`: `keras_fsa.losses.CrossEntropy` of the task's activation, which ignores
                the label 255. The auxiliary head's logits enter the same loss, with their weight.
            metrics: `"auto"`: mean IoU that ignores the label 255.
            **kwargs: of `keras.Model.compile`.

        Raises:
            ValueError: for several losses, anything that is not a loss, and a loss of this library
                whose activation differs from the task's.
        """
        if optimizer == "auto":
            optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        if loss == "auto":
            loss = CrossEntropy(activation=self.activation)
        loss = only_loss(loss, self.activation)
        if metrics == "auto":
            metrics = [mean_iou(self.num_classes, self.activation)]
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        self._auxiliary_loss = as_loss(loss)
        self._loss_weight = loss_weight(kwargs.get("loss_weights"))

    def get_compile_config(self):
        return portable_config(super().get_compile_config())

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train: see KerasHub's `Task.fit`.

        Raises:
            ValueError: as `FsaNet.fit`, unless the preprocessor leaves masks as they are.
        """
        together = self.preprocessor is None or self.preprocessor.resize_output_mask
        images, masks = (x, y) if together else (None, None)
        weight = kwargs.get("class_weight")
        check_data(images, masks, weight, self.num_classes, self.activation)
        return super().fit(x, y, *args, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        check_masks(y, x, self.num_classes, self.activation)
        if not isinstance(y_pred, dict):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        loss = super().compute_loss(x, y, y_pred["logits"], sample_weight, training)
        auxiliary = self._auxiliary_loss(y, y_pred["auxiliary"], sample_weight)
        return with_auxiliary(loss, auxiliary, self._loss_weight * self.auxiliary_loss_weight)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, y, logits, sample_weight)

    def save_to_preset(
        self,
        preset_dir: Path,
        max_shard_size: float | None = 10,
        trained_on: str | None = None,
        figures: dict[str, float] | None = None,
        licence: str | None = None,
    ) -> None:
        """Save a preset's folder: KerasHub's files, and a model card, `README.md`.

        Args:
            preset_dir: the folder; it is created if missing.
            max_shard_size: gigabytes above which the weights are split into several files.
            trained_on: for the card: what the network was trained on.
            figures: for the card: scores by name.
            licence: for the card: the SPDX name of the weights' licence, such as `"apache-2.0"`.
        """
        super().save_to_preset(str(preset_dir), max_shard_size=max_shard_size)
        _record_dtype_of_weights(self.backbone, preset_dir)
        write_card(self, preset_dir, trained_on, figures, licence)

    def get_config(self):
        usual = choose_activation(None, self.num_classes)
        frozen = [layer.name for layer in self._classifiers() if not layer.trainable]
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "dropout": self.dropout,
            "auxiliary_loss_weight": self.auxiliary_loss_weight,
            "class_names": self.class_names,
            "palette": self.palette,
            # None is what the number of classes says, also where a preset is loaded with another.
            "activation": None if self.activation == usual else self.activation,
            # With the number of classes of which they are.
            **({"frozen": {"layers": frozen, "num_classes": self.num_classes}} if frozen else {}),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("class_names", "palette"):
            # A preset that is loaded for other classes, see `keras_fsa.models.trained.adapted`.
            if len(config.get(name) or ()) != config["num_classes"]:
                config[name] = None
        frozen = config.pop("frozen", None)
        task = super().from_config(config)
        if frozen and frozen["num_classes"] == task.num_classes:
            for layer in task._classifiers():
                layer.trainable = layer.name not in frozen["layers"]
        return task

    def _classifiers(self):
        classifiers = (self.classifier, self.auxiliary_classifier)
        return [layer for layer in classifiers if layer is not None]


def _record_dtype_of_weights(backbone, folder):
    """KerasHub opens a preset in Keras' global policy, unless it was saved as a mixed one."""
    policy = backbone.dtype_policy
    if policy.name.startswith("mixed_"):
        path = os.path.join(folder, "config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        stored = keras.DTypePolicy(policy.variable_dtype)
        config["config"]["dtype"] = keras.dtype_policies.serialize(stored)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(config, indent=4), encoding="utf-8")

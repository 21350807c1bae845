"""All of FsaNet except its last convolutions, as a KerasHub backbone."""

from typing import Any

import keras

from keras_fsa import affinities
from keras_fsa.arguments import boolean, optional_import
from keras_fsa.models.attention import describe_attention, in_head
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.models.heads import MAPS, freeze, frozen_layers, seen_by_head
from keras_fsa.models.speed import use_speed_paths
from keras_fsa.types import DType, Path

Backbone: Any = optional_import("keras_hub", "hub").models.Backbone

# Arguments of FsaNet: those that are data, and those that may be objects.
SETTINGS = (
    "image_shape",
    "output_stride",
    "frequencies",
    "recurrence",
    "num_heads",
    "head_channels",
    "align_corners",
    "normalization",
    "auxiliary_channels",
    "auxiliary_use_bias",
    "low_level",
)
PARTS = ("attention", "affinity")


@keras.saving.register_keras_serializable(package="keras_fsa")
class FsaNetBackbone(Backbone):
    """FsaNet without its last convolutions: from images to the features that these classify.

    When a preset is loaded with another number of classes, KerasHub keeps the backbone's weights
    and creates everything else anew. So the rest of the head, attention included, belongs here.

    Args:
        image_encoder: `backbone` of `FsaNet`: a name or a Keras model.
        auxiliary: whether there is an auxiliary head on stage 4, for the loss.
        encoder_weights: `backbone_weights` of `FsaNet`.
        head: a functional model from stage 5 to features, in place of FsaNet's head; with
            `low_level`, from a dict of all stages.
        dtype: dtype policy of all layers. Default: Keras' global one.
        **settings: the same as for `FsaNet`: `image_shape`, `output_stride`, `attention`,
            `affinity`, `frequencies`, `recurrence`, `head_channels`, `align_corners`,
            `normalization`, `auxiliary_channels`, `auxiliary_use_bias`, `low_level`; and for
            `keras_hub.models.Backbone`: `name`, `trainable`.

    Call arguments:
        images: `(B, H, W, channels)`, RGB from 0 to 255; they are normalised here.

    Output:
        A dict: `"features"`, `(B, h, w, head_channels)`, and with an auxiliary head `"auxiliary"`,
        `(B, h', w', auxiliary_channels)`.

    Raises:
        ValueError: as `FsaNet` does.

    Source: Zhang, Panahi, Gao, arXiv:2211.15595.
    """

    def __init__(
        self,
        image_encoder: str | keras.Model = "resnet101",
        auxiliary: bool = True,
        encoder_weights: Path | None = None,
        head: keras.Model | None = None,
        dtype: DType = None,
        **settings: Any,
    ) -> None:
        boolean("auxiliary", auxiliary)
        own = {name: settings.pop(name) for name in (*SETTINGS, *PARTS) if name in settings}
        # It checks the arguments and makes the parts; its last convolutions are dropped.
        network = FsaNet(
            num_classes=2,
            backbone=image_encoder,
            backbone_weights=encoder_weights,
            head=with_classifier(head, 2) if isinstance(head, keras.Model) else head,
            auxiliary_loss_weight=float(auxiliary),
            dtype=dtype,
            **own,
        )
        images = keras.Input(network.image_shape, name="images")
        encoded = network.backbone(network.normalize(images))
        trunk = head or without_classifier(network.head)
        outputs = {"features": trunk(seen_by_head(encoded, network.low_level))}
        auxiliary_trunk = None
        if auxiliary:
            auxiliary_trunk = without_classifier(network.auxiliary_head)
            outputs["auxiliary"] = auxiliary_trunk(encoded["stage4"])
        super().__init__(
            inputs=images,
            outputs=outputs,
            dtype=network.dtype_policy,
            **{"name": "fsanet_backbone", **settings},
        )
        self.image_encoder = network.backbone
        self.head = trunk
        self.auxiliary_head = auxiliary_trunk
        self.auxiliary = auxiliary
        self.has_own_head = head is not None
        self.attention = network.attention
        self.affinity = network.affinity
        for name in SETTINGS:
            setattr(self, name, getattr(network, name))
        use_speed_paths(self)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        head = self.head if self.has_own_head else None
        frozen = frozen_layers(self)
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in SETTINGS},
            "image_encoder": serialize(self.image_encoder),
            "attention": describe_attention(self.attention, head),
            "affinity": self.affinity and affinities.serialize(self.affinity),
            "auxiliary": self.auxiliary,
            **({"head": serialize(head)} if head is not None else {}),
            **({"frozen": frozen} if frozen else {}),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        # KerasHub loads a preset in the policy that it is asked for or Keras is set to; the parts
        # recorded their own.
        policy = keras.dtype_policies.get(config.get("dtype") or keras.config.dtype_policy())
        for name in ("image_encoder", *PARTS, "head"):
            if isinstance(config.get(name), dict) and not in_head(config[name]):
                config[name] = keras.saving.deserialize_keras_object(
                    _in_policy(config[name], policy)
                )
        if attention := in_head(config.get("attention")):
            config["attention"] = config["head"].get_layer(attention)
        # The recorded encoder is dilated already.
        output_stride, frozen = config.pop("output_stride", None), config.pop("frozen", {})
        backbone = cls(**{**config, "dtype": policy})
        backbone.output_stride = output_stride
        freeze(backbone, frozen)
        return backbone


def with_classifier(trunk: keras.Model, num_classes: int) -> keras.Model:
    """The `FsaNet` head that this is the part of, up to the last convolution; without dropout."""
    x = keras.layers.Conv2D(num_classes, 1, **MAPS, name="logits")(trunk.output)
    return keras.Model(trunk.input, x, name=trunk.name)


def without_classifier(head: keras.Model) -> keras.Model:
    """A head of `FsaNet` up to the input of its dropout and last convolution.

    Raises:
        ValueError: for a head that does not end in layers of these names.
    """
    names = [layer.name for layer in head.layers]
    if names[-2:] != ["dropout", "logits"]:
        raise ValueError(
            "A `head` must end in the layers 'dropout' and 'logits'. Received: "
            f"head={head.name!r}, which ends in {names[-2:]}. Name the last two layers so."
        )
    return keras.Model(head.input, head.get_layer("dropout").input, name=head.name)


def _in_policy(config, policy):
    """A serialized object with another dtype policy in all its layers."""
    if isinstance(config, (list, tuple)):
        return [_in_policy(item, policy) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return keras.dtype_policies.serialize(policy)
    return {key: _in_policy(value, policy) for key, value in config.items()}

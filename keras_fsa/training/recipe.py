"""All settings of a training, by their names in the field."""

from dataclasses import dataclass, field, fields
from typing import Any

from keras_fsa.arguments import one_of, positive_int
from keras_fsa.models.presets import PRESETS


def setting(
    help: str, default: Any = None, choices: tuple | None = None, elsewhere: bool = False
) -> Any:
    """A field of `Recipe`; `elsewhere`: it may change when a training goes on."""
    metadata = {"help": help, "choices": choices, "elsewhere": elsewhere}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. Sizes are `(height, width)` in pixels, but for `base_size`."""

    dataset: str = setting("name of the data set, see keras_fsa.datasets")
    data_dir: str = setting("folder of the data set; None: the usual place", elsewhere=True)
    manual_dir: str = setting("folder of archives got by hand; None: the usual", elsewhere=True)
    skip_unreadable: bool = setting(
        "whether broken files of the data set are left out; else the first is an error", False
    )
    output: str = setting("folder of the results, and of the state to go on from", elsewhere=True)

    preset: str = setting(
        "published network whose head is trained", "ccnet_dot_r2_cityscapes", tuple(PRESETS)
    )
    backbone: str = setting("its name, or 'preset' for the preset's own", "resnet101")
    weights: str = setting("the backbone's, 'imagenet' or a file; none: random", "imagenet")
    output_stride: int = setting("picture size over feature size", 8)
    affinity: str = setting(
        "of the attention", "dot_product", ("dot_product", "linear_softmax", "linear")
    )
    frequencies: int = setting("low frequencies kept for each axis", 8)
    recurrence: int = setting("times the attention is applied", 2)
    head_channels: int = setting("width of the head", 512)
    dropout: float = setting("share of channels dropped before the classes", 0.1)
    align_corners: bool = setting("whether logits are resized with corners aligned", False)

    crop: tuple = setting("height and width of the training crops", (512, 512))
    scales: tuple = setting("range of the random scale", (0.5, 2.0))
    scale_step: float = setting("distance of the scales; None: any scale")
    base_size: tuple = setting("long and short side of scale 1; None: the picture's")
    photometric: bool = setting("whether brightness, contrast and colours vary", True)
    max_class_share: float = setting("most of a crop that one class may fill", 0.75)

    steps: int = setting("steps of training", 80_000)
    batch: int = setting("crops in a step, of all devices together", 16)
    learning_rate: float = setting("at the start", 0.01)
    final_learning_rate: float = setting("at the end of the poly decay, power 0.9", 1e-4)
    momentum: float = setting("of SGD", 0.9)
    weight_decay: float = setting("L2 term in the gradient", 5e-4)
    loss: str = setting("of the pixels", "cross_entropy", ("cross_entropy", "ohem"))
    ohem_threshold: float = setting("pixels of a lower probability are hard", 0.7)
    ohem_keep: int = setting("the least number of pixels that count", 100_000)
    class_weights: list = setting("of the loss, a positive number for each class; none: equal")
    auxiliary_loss_weight: float = setting("weight of the head on stage 4", 0.4)
    batch_norm: str = setting(
        "statistics in training: of the batch (of all devices), or the moving ones",
        "batch",
        ("batch", "moving"),
    )
    mixed_precision: str = setting(
        "dtype policy", "float32", ("float32", "mixed_bfloat16", "mixed_float16")
    )
    seed: int = setting("of weights, data and dropout", 0)

    validation_size: tuple = setting(
        "size that validation pictures are fitted into", elsewhere=True
    )
    validation_pictures: int = setting("first ones only; None: all", elsewhere=True)
    drawn_pictures: int = setting(
        "first validation pictures to draw beside truth and prediction; none: none",
        4,
        elsewhere=True,
    )
    tensorboard: bool = setting("whether to log for TensorBoard, too", True, elsewhere=True)
    validate_every: int = setting("steps between validations", 5000, elsewhere=True)
    checkpoint_every: int = setting("steps between checkpoints", 500, elsewhere=True)
    devices: str = setting("devices to train on", "one", ("one", "all"), elsewhere=True)

    def __post_init__(self):
        for setting in fields(self):
            if setting.metadata["choices"]:
                one_of(setting.name, getattr(self, setting.name), setting.metadata["choices"])
        for name in ("steps", "batch", "validate_every", "checkpoint_every"):
            positive_int(name, getattr(self, name))
        for name in ("validation_pictures", "drawn_pictures"):
            positive_int(name, getattr(self, name), optional=True)
        if self.validate_every % self.checkpoint_every:
            raise ValueError(
                "`validate_every` must be a multiple of `checkpoint_every`. Received: "
                f"validate_every={self.validate_every}, checkpoint_every={self.checkpoint_every}. "
                "Change one of them."
            )

    def what_must_stay(self) -> dict[str, Any]:
        """The settings that a training cannot change when it goes on, as a dict."""
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if not item.metadata["elsewhere"]
        }

"""All settings of a training, under the names that are common in the field."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from keras_fsa._deprecation import renamed_arguments
from keras_fsa.arguments import one_of
from keras_fsa.models.presets import PRESETS
from keras_fsa.settings import Count, NotNegative, Pixels, Real, Scale, Seed, Whole, check

# What may differ when a training resumes: where files lie, how often it reports, and on what.
MAY_CHANGE = (
    "data_dir",
    "manual_dir",
    "output",
    "validation_size",
    "validation_batch",
    "validation_images",
    "drawn_images",
    "tensorboard",
    "validate_every",
    "checkpoint_every",
    "devices",
    "cache_gigabytes",
)
Share = Annotated[float, Real(0, 1)]


@renamed_arguments(validation_pictures="validation_images", drawn_pictures="drawn_images")
@dataclass(frozen=True)
class Recipe:
    """The settings of a training. Sizes are height and width in pixels, except `base_size`."""

    dataset: str
    """Name of the dataset, see keras_fsa.datasets."""
    data_dir: str | None = None
    """Folder of the dataset; none: TFDS's."""
    manual_dir: str | None = None
    """Folder of archives that were downloaded by hand; none: TFDS's."""
    skip_unreadable: bool = False
    """Leave out broken files of the dataset; otherwise the first one is an error."""
    output: str = "outputs/training"
    """Folder of the results, and of the state to resume from."""

    preset: str = "ccnet_dot_r2_cityscapes"
    """Published network whose head is trained."""
    backbone: str = "resnet101"
    """Name of the backbone, or 'preset' for the preset's own."""
    weights: str | None = "imagenet"
    """Weights of the backbone, 'imagenet' or a file; none: random."""
    output_stride: Literal[8, 16, 32] = 8
    """Ratio of the image's size to the feature map's."""
    attention: Literal["frequency", "spatial", "none"] = "frequency"
    """Attention between low frequencies, between all positions, or none."""
    affinity: str = "dot_product"
    """Affinity of the attention: dot_product, linear_softmax, linear; for spatial, also softmax."""
    frequencies: Count = 8
    """Low frequencies kept on each axis."""
    recurrence: Count = 2
    """How many times the attention is applied."""
    head_channels: Count = 512
    """Width of the head."""
    dropout: Annotated[float, Real(minimum=0, below=1)] = 0.1
    """Share of channels dropped before the logits."""
    low_level: (
        Literal["stage3", "stage2", "stage1"] | tuple[Literal["stage3", "stage2", "stage1"], ...]
    ) | None = None
    """Finer stages that the head joins, from coarse to fine; none: no finer stage."""
    align_corners: bool | None = None
    """Resize logits with aligned corners or without; none: by the stride, right at any size."""

    crop: tuple[Pixels, Pixels] = (512, 512)
    """Height and width of the training crops."""
    scales: tuple[Scale, Scale] = (0.5, 2.0)
    """Range of the random scale."""
    scale_step: Annotated[float, Real(above=0)] | None = None
    """Step between the scales; none: any scale."""
    base_size: tuple[Pixels, Pixels] | None = None
    """Long and short side of images at scale 1; none: the image's own."""
    photometric: bool = True
    """Vary brightness, contrast and colours."""
    max_class_share: Annotated[float, Real(above=0, maximum=1)] = 0.75
    """Largest share of a crop that one class may fill."""

    steps: Count = 80_000
    """Steps of training."""
    batch: Count = 16
    """Crops per step, over all devices."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD under poly decay with power 0.9, or AdamW under cosine decay."""
    learning_rate: Annotated[float, Real(0, 100)] = 0.01
    """Learning rate at the start, or after the warm-up."""
    final_learning_rate: Annotated[float, Real(0, 100)] = 1e-4
    """Learning rate at the end of the decay."""
    warmup_steps: Annotated[int, Whole(0)] = 0
    """Steps during which AdamW's learning rate rises from zero."""
    momentum: Share = 0.9
    """Momentum of SGD."""
    weight_decay: NotNegative = 5e-4
    """Weight decay; for SGD an L2 term in the gradient, for AdamW decoupled, on the kernels."""
    loss: Literal["cross_entropy", "ohem"] = "cross_entropy"
    """Loss of the pixels."""
    ohem_threshold: Share = 0.7
    """Pixels whose true class has a lower probability are hard."""
    ohem_keep: Annotated[int, Whole(1)] = 100_000
    """Minimum number of pixels that count in the loss."""
    class_weights: tuple[Annotated[float, Real(above=0, maximum=1e6)], ...] | None = None
    """Weights in the loss, a number for each class; none: equal."""
    auxiliary_loss_weight: NotNegative = 0.4
    """Weight of the auxiliary head's loss; 0: no auxiliary head."""
    batch_norm: Literal["batch", "moving"] = "batch"
    """Batch norm's statistics in training: of the batch (of all devices), or the moving ones."""
    mixed_precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Dtype policy."""
    seed: Seed = 0
    """Seed of weights, data and dropout."""

    validation_size: tuple[Pixels, Pixels] | None = None
    """Size that validation images are fitted into; none: as they are."""
    validation_batch: Count = 1
    """Validation images that each device takes at a time; if more than 1, all of one size."""
    validation_images: Count | None = None
    """Number of validation images, the first ones; none: all."""
    drawn_images: Count | None = 4
    """Number of validation images to draw with truth and prediction, the first ones; none: none."""
    tensorboard: bool = True
    """Also log for TensorBoard."""
    validate_every: Count = 5000
    """Steps between validations."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""
    devices: Literal["one", "all"] = "one"
    """Devices to train on."""
    cache_gigabytes: NotNegative = 0.0
    """Memory for keeping training images once they are read; 0: read them in each epoch."""

    def __post_init__(self):
        check(self)

    def check(self) -> None:
        """Raise a `ValueError` for settings that do not go together."""
        one_of("preset", self.preset, tuple(PRESETS))
        if self.warmup_steps and self.optimizer != "adamw":
            raise ValueError(
                "`warmup_steps` is for optimizer='adamw'. Received: warmup_steps="
                f"{self.warmup_steps}, optimizer={self.optimizer!r}. Change one of them."
            )
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                "`final_learning_rate` must be at most `learning_rate`, from which the rate falls. "
                f"Received: final_learning_rate={self.final_learning_rate:g}, learning_rate="
                f"{self.learning_rate:g}. Lower it."
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                "`warmup_steps` must be fewer than the steps. Received: "
                f"warmup_steps={self.warmup_steps}, steps={self.steps}. Lower it."
            )
        if self.validate_every % self.checkpoint_every:
            raise ValueError(
                "`validate_every` must be a multiple of `checkpoint_every`. Received: "
                f"validate_every={self.validate_every}, checkpoint_every={self.checkpoint_every}. "
                "Change one of them."
            )

    def what_must_stay(self) -> dict[str, Any]:
        """The settings that cannot change when a training resumes, as a dict."""
        # The package of datasets may bring TensorFlow's.
        from keras_fsa.datasets.augment import PIPELINE

        names = [item.name for item in fields(self) if item.name not in MAY_CHANGE]
        return {"pipeline": PIPELINE} | {name: getattr(self, name) for name in names}

    @property
    def validation_pictures(self) -> int | None:
        """`validation_images`, by its earlier name."""
        return self.validation_images

    @property
    def drawn_pictures(self) -> int | None:
        """`drawn_images`, by its earlier name."""
        return self.drawn_images

r"""Check images and masks for problems before hours of training.

    keras_fsa check --images images/train --masks masks/train --num-classes 11

    keras_fsa check --images images --masks coco.json --val-images val --val-masks coco_val.json

    keras_fsa check --dataset cityscapes --data-dir data --manual-dir archives

Data is specified as for keras_fsa train: folders, a CSV file of pairs, COCO or Labelme files, masks
in colours or with other ids, a folder of masks for each class, images with any number of channels.
Or name one of the datasets: all its splits are read, or only those of --split.

Every image and mask is read once. For each class, the command prints its share of the pixels, the
number of images that contain it, and roughly the weight that keras_fsa train --class-weights
balanced gives it. A problem is

- a file that cannot be read, is truncated, or has no partner;
- a mask whose size differs from its image's, has ids that are no class, or is ignored entirely;
- a number of examples other than the one published for the dataset.

The exit code is 1 if there is a problem, 2 for a mistake in the flags, else 0.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from keras_fsa.classes import choose_activation
from keras_fsa.commands.command import command, named_by_flags
from keras_fsa.commands.data import Source, class_names, raster_reader
from keras_fsa.commands.predict import Names
from keras_fsa.images import MAX_PIXELS
from keras_fsa.settings import Classes, Count, ExistingFile, ExistingPath, Label

# Flags of one's own data, and of datasets by name.
OF_IMAGES = (
    "masks", "val_images", "val_masks", "num_classes", "class_names", "activation", "ignore_label",
    "colour_table", "id_table", "channels", "max_pixels",
)  # fmt: skip
OF_DATASETS = ("split", "data_dir", "manual_dir", "download", "skip_unreadable")


@dataclass(frozen=True)
class Check:
    """Check images and masks for problems before hours of training."""

    images: ExistingPath | None = None
    """Folder of images, or a CSV file of images and masks."""
    masks: ExistingPath | None = None
    """Folder of their masks, or a COCO file."""
    val_images: ExistingPath | None = None
    """Folder of the validation images, or a CSV file."""
    val_masks: ExistingPath | None = None
    """Folder of their masks, or a COCO file."""
    num_classes: Classes | None = None
    """Number of classes: ids are 0 to this number - 1; none: the files name the classes."""
    class_names: Names | None = None
    """Such as sky,road,car. With a folder per class, this sets their order."""
    activation: Literal["softmax", "sigmoid"] | None = None
    """One class per pixel, or any number; none: softmax, or sigmoid if there is one class."""
    ignore_label: Label = 255
    """Id in the masks of pixels that belong to no class."""
    colour_table: ExistingFile | None = None
    """For masks in colours: a file with red, green, blue and name in each line."""
    id_table: ExistingFile | None = None
    """For masks with other ids: a CSV file of old and new ids."""
    channels: Count | None = None
    """Number of channels of images read with their stored values; none: RGB in 8 bits."""
    max_pixels: Count = MAX_PIXELS
    """Refuse images with more pixels than this."""

    dataset: Literal["cityscapes", "ade20k", "voc_aug", "camvid", "signal_harbor"] | None = None
    """Instead of --images: the name of a dataset."""
    split: tuple[str, ...] | None = None
    """Splits of the dataset; none: all."""
    data_dir: Path | None = None
    """Where TFDS keeps datasets; for CamVid, its own folder."""
    manual_dir: ExistingPath | None = None
    """Folder of its archives, if it is not prepared yet."""
    download: bool = False
    """Download missing archives."""
    skip_unreadable: bool = False
    """Leave out broken files when preparing."""

    fail_fast: bool = False
    """Stop at the first problem."""

    def check(self) -> None:
        """Raise a `ValueError` for flags that do not go together."""
        if bool(self.images) == bool(self.dataset):
            raise ValueError("Give --images or --dataset, one of them.")
        given = "dataset" if self.dataset else "images"
        for name in OF_IMAGES if self.dataset else OF_DATASETS:
            if getattr(self, name) != getattr(Check, name):
                raise ValueError(f"`{name}` does not go with `{given}`. Leave one of them out.")
        if self.val_masks and not self.val_images:
            raise ValueError("--val-masks needs the --val-images they belong to.")
        choose_activation(self.activation, self.count())

    def count(self) -> int:
        """The number of classes if the flags specify it; otherwise 2, which stands for several."""
        return self.num_classes or len(self.class_names or ()) or 2


def main(
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    description: str = __doc__,
) -> None:
    """Run the command, see `keras_fsa.commands.command.command`.

    Raises:
        SystemExit: with code 1 if there is a problem.
    """
    command(Check, check, arguments, program, description)


def check(settings: Check) -> None:
    """Check all parts of the data; `SystemExit(1)` if there is a problem."""
    # The package of datasets may bring TensorFlow's.
    from keras_fsa.datasets.check import check as look_through

    count = 0
    for title, names, activation, expected, read in _parts(settings):
        try:
            examples = read()
        except (ValueError, OSError) as error:
            print(f"{title}:\n  PROBLEM: {named_by_flags(str(error), settings)}")
            count += 1
        else:
            found = look_through(examples, len(names), expected, settings.fail_fast, activation)
            count += len(found.problems)
            _print(title, len(examples), found, names, activation)
            for problem in found.problems:
                print(f"  PROBLEM: {named_by_flags(problem, settings)}")
        if count and settings.fail_fast:
            break
    print(f"{count} problem{'s' * (count != 1)}")
    if count:
        raise SystemExit(1)


def _parts(settings) -> Iterator[tuple[str, Sequence[str], str, int | None, Callable]]:
    """Title, class names, activation, published count and reader of each part of the data."""
    if settings.dataset:
        from keras_fsa.datasets import describe, load

        about = describe(settings.dataset)
        for split in settings.split or about.splits:
            yield (
                f"{settings.dataset}, {split}",
                about.class_names,
                "softmax",
                about.splits.get(split),
                lambda split=split: load(
                    settings.dataset,
                    split,
                    settings.data_dir,
                    settings.download,
                    settings.manual_dir,
                    settings.skip_unreadable,
                ),
            )
        return
    source = Source(
        settings.images,
        settings.masks,
        choose_activation(settings.activation, settings.count()),
        settings.ignore_label,
        settings.colour_table,
        settings.id_table,
        raster_reader(settings.channels, settings.max_pixels) if settings.channels else None,
        settings.max_pixels,
    )
    names = class_names(source, settings.class_names, settings.num_classes)
    sources = [source]
    if settings.val_images:
        sources.append(replace(source, images=settings.val_images, masks=settings.val_masks))
    for each in sources:
        each.check(names)
    for each in sources:
        yield (
            str(each.images), names, source.activation, None,
            lambda each=each: each.open(names, check=False),
        )  # fmt: skip


def _print(title, count, found, names, activation):
    """Print what is in a part of the data."""
    sizes = sorted(found.sizes, key=lambda size: size[0] * size[1])
    ends = [f"{height} x {width}" for height, width in dict.fromkeys(sizes[:1] + sizes[-1:])]
    of = f" of {' to '.join(ends)} pixels" if ends else ""
    print(f"{title}: {count} examples{of}")
    if ends:
        _print_classes(found, names, activation)


def _print_classes(found, names, activation):
    from keras_fsa.datasets.check import balanced_weights

    weighed = activation == "softmax"
    print(f"  {'class':>24}     share  images{'  weight' * weighed}")
    total = found.total
    weights: Any = balanced_weights(found) if weighed else [None] * len(names)
    columns = zip(names, found.pixels / total, found.images, weights, strict=True)
    for name, share, images, weight in columns:
        end = "" if weight is None else f"  {weight:6.4g}" if images else f"  {'-':>6}"
        print(f"  {name[:24]:>24}  {share:8.4%}  {images:6}{end}")
    print(f"  {'ignored':>24}  {(found.total - found.counted.mean()) / total:8.4%}")
    for name, images in zip(names, found.images, strict=True):
        if not images:
            print(f"  Note: {name} is in no mask.")

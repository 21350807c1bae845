"""The datasets by name: what they hold (`describe`) and their examples (`load`).

Masks leave `load` in one form, whatever the ids of the files: class `i` is `i`, and all that
belongs to no class is 255.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_fsa import types
from keras_fsa.arguments import boolean, one_of, optional_import
from keras_fsa.datasets import ade20k, camvid, cityscapes, signal_harbor, voc_aug
from keras_fsa.datasets.archives import import_tfds, require_files, require_space
from keras_fsa.datasets.examples import Examples
from keras_fsa.datasets.folder import folder_dataset
from keras_fsa.images import ImageError, read_image, read_mask
from keras_fsa.metrics import IGNORE_LABEL


@dataclass(frozen=True, eq=False)
class Description:
    """What a dataset holds.

    Attributes:
        name: name of the dataset.
        class_names: tuple of the names of the classes, in the order of their ids.
        palette: uint8 array `(classes, 3)`, the RGB colour of each class.
        splits: dict of the names of the splits and the published number of examples in each; the
            first is the one to train on, the last the one to evaluate on.
        ignore_label: id in the masks of the pixels of no class.
    """

    name: str
    class_names: tuple
    palette: np.ndarray
    splits: dict
    ignore_label: int = IGNORE_LABEL


@dataclass(frozen=True)
class _Prepared:
    """How TFDS holds a dataset: its builder, features, splits by other names, and ids."""

    builder: str
    ids: tuple
    """The raw id of each class."""
    ignored: tuple = ()
    """Further raw ids that may occur."""
    image: str = "image"
    mask: str = "mask"
    name: str = "name"
    splits: tuple = ()
    options: tuple = ()
    """Names of the arguments of `load` that the builder takes."""


_MODULES = {
    "cityscapes": cityscapes,
    "ade20k": ade20k,
    "voc_aug": voc_aug,
    "camvid": camvid,
    "signal_harbor": signal_harbor,
}
_PREPARED = {
    "cityscapes": _Prepared(
        "cityscapes/semantic_segmentation",
        cityscapes.RAW_IDS,
        cityscapes.IGNORED_IDS,
        "image_left",
        "segmentation_label",
        "image_id",
        (("val", "validation"),),
    ),
    "ade20k": _Prepared("ade20k", tuple(range(1, 151)), (0, 255), options=("skip_unreadable",)),
    "voc_aug": _Prepared("voc_aug", tuple(range(21)), (255,), options=("skip_unreadable",)),
}

NAMES = tuple(_MODULES)
"""The names that `describe` and `load` know."""

_UNKNOWN = 254


def describe(name: str) -> Description:
    """The `Description` of a dataset: class names, colours, splits. Reads no file.

    Raises:
        ValueError: if `name` is none of `NAMES`.
    """
    one_of("name", name, NAMES)
    module = _MODULES[name]
    palette = np.array(module.PALETTE, "uint8")
    palette.setflags(write=False)
    return Description(name, tuple(module.CLASSES), palette, dict(module.SPLITS))


def load(
    name: str,
    split: str,
    data_dir: types.Path | None = None,
    download: bool = False,
    manual_dir: types.Path | None = None,
    skip_unreadable: bool = False,
) -> Examples:
    """The examples of a dataset.

    Signal Harbor is drawn as it is read, and CamVid read from its own files. The others are
    prepared by TFDS on first use.

    ```python
    train = load("cityscapes", "train", data_dir="data", manual_dir="archives")
    ```

    Args:
        name: `"cityscapes"`, `"ade20k"`, `"voc_aug"`, `"camvid"` or `"signal_harbor"`.
        split: one of the splits in `describe(name).splits`.
        data_dir: folder of TFDS for prepared data; None is TFDS' own (`~/tensorflow_datasets`).
            For CamVid the folder of its files, see `keras_fsa.datasets.camvid`.
        download: whether archives that are not there may be fetched. Cityscapes wants a login,
            hence archives given by hand. What is there is prepared in any case.
        manual_dir: folder of archives (or of what was in them) given by hand; None is
            `downloads/manual` in `data_dir`.
        skip_unreadable: whether ADE20K and VOCaug leave out broken files, with a warning, when
            they are prepared. Otherwise the first broken file is an error, and so is a split that
            was prepared without some.

    Returns:
        `Examples` in a fixed order: pairs of uint8 RGB `(height, width, 3)` and uint8
        `(height, width)` with the class ids and 255.

    Raises:
        ValueError: if there is no such dataset or split, or if what is prepared cannot be used;
            when an example is read, if its mask has ids that are no label or is of another size.
            The error names the example.
        FileNotFoundError: if archives or files are missing; it says where to get them and where to
            put them.
        OSError: if the disk is too full to prepare the dataset.
        ImportError: if TensorFlow or TFDS is missing for a dataset that TFDS prepares, or Pillow,
            with the pip command.
    """
    description = describe(name)
    one_of("split", split, tuple(description.splits))
    boolean("download", download)
    boolean("skip_unreadable", skip_unreadable)
    optional_import("PIL.Image", "tools")
    if name in _PREPARED:
        return _load_prepared(name, split, data_dir, download, manual_dir, skip_unreadable)
    if name == "camvid":
        images, masks = camvid.folders(split, data_dir)
        classes, label = len(camvid.CLASSES), camvid.IGNORED_ID
        return folder_dataset(images, masks, classes, ignore_label=label, check=False)
    module = _MODULES[name]
    return Examples(
        description.splits[split],
        lambda index: module.draw_scene(module.scene_rng(split, index)),
        lambda index: f"{split} {index}",
        (module.HEIGHT, module.WIDTH),
    )


def _load_prepared(name, split, data_dir, download, manual_dir, skip_unreadable):
    layout = _PREPARED[name]
    options = {"skip_unreadable": skip_unreadable}
    builder = _prepare(
        layout.builder,
        _MODULES[name].SOURCES,
        data_dir,
        download,
        manual_dir,
        {option: options[option] for option in layout.options},
    )
    left_out = (builder.info.metadata or {}).get("left_out", {}).get(split)
    if left_out and not skip_unreadable:
        raise ValueError(
            f"A split must be complete. Received: {name}, {split}, prepared in {builder.data_dir} "
            f"without {len(left_out)} broken file(s), the first: {left_out[0]}. Go on without them "
            "with skip_unreadable=True, or get fresh copies, delete that folder and prepare again."
        )
    records = _records(builder, dict(layout.splits).get(split, split))
    features = _feature_reader(records)
    table = np.full(256, _UNKNOWN, "uint8")
    table[list(layout.ignored)] = IGNORE_LABEL
    table[list(layout.ids)] = np.arange(len(layout.ids))

    def read(index):
        example = features(index)
        try:
            image = read_image(io.BytesIO(_bytes(example, layout.image)), max_pixels=None)
            ids = read_mask(io.BytesIO(_bytes(example, layout.mask)), max_pixels=None)
        except ImageError as error:
            raise ValueError(f"{name}, {split}: {name_of(index)}: {error.reason}") from error
        mask = table[ids]
        if (mask == _UNKNOWN).any():
            wrong = ", ".join(map(str, np.unique(ids[mask == _UNKNOWN])))
            raise ValueError(f"{name}, {split}: ids that are no label in {name_of(index)}: {wrong}")
        if image.shape[:2] != mask.shape:
            raise ValueError(
                f"{name}, {split}: image and mask differ in size in {name_of(index)}: "
                f"{image.shape[:2]} and {mask.shape}"
            )
        return image, mask

    def name_of(index):
        return _bytes(features(index), layout.name).decode()

    return Examples(len(records), read, name_of)


def _prepare(name, sources, data_dir, download, manual_dir, options):
    """The builder of a dataset, after it has prepared its files where need be."""
    tfds = import_tfds()
    from keras_fsa.datasets import builders  # noqa: F401 registers our builders

    builder = tfds.builder(name, data_dir=data_dir, **options)
    if builder.is_prepared():
        return builder
    root = Path(os.fspath(builder.data_dir).removesuffix(builder.info.full_name))
    manual_dir = Path(manual_dir or root / "downloads/manual")
    require_files(sources, manual_dir, download)
    require_space(sources, manual_dir, root, builder.url_infos)
    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    try:
        builder.download_and_prepare(download_dir=root / "downloads", download_config=config)
    except tfds.core.download.extractor.ExtractError as error:
        raise ValueError(
            f"Archives must be whole. Received: manual_dir={manual_dir}, where unpacking ended "
            f"with: {error}. Get a fresh copy of this archive."
        ) from error
    return builder


def _records(builder, split):
    """`(path, offset, length)` of each record of a split.

    TFDS' other file format, array_record, gives records by number itself, but `tfds.load` cannot
    read it; and a dataset can be prepared in one format only.
    """
    info = builder.info
    if info.file_format.value != "tfrecord":
        raise ValueError(
            "A dataset must be prepared as TFRecord files. Received: "
            f"file_format={info.file_format.value} in {builder.data_dir}. Pass another data_dir."
        )
    records = []
    for path in info.splits[split].filepaths:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            place = 0
            # A record is its length (8 bytes) and a checksum (4), its content, and a checksum (4).
            while place < end:
                file.seek(place)
                length = int.from_bytes(file.read(8), "little")
                records.append((os.fspath(path), place + 12, length))
                place += length + 16
        if place != end:
            raise ValueError(
                f"A file of records must be whole. Received: {path}, which ends early. Delete "
                f"{builder.data_dir} and prepare the dataset again."
            )
    if len(records) != info.splits[split].num_examples or not records:
        raise ValueError(
            f"A split must hold the examples that it was prepared with, at least one. Received: "
            f"{len(records)} of {info.splits[split].num_examples} in {builder.data_dir}. Delete it "
            "and prepare the dataset again."
        )
    return records


def _feature_reader(records: list) -> Callable[[int], Any]:
    """A function from the number of a record to its features, in TensorFlow's protocol buffers."""
    parse = optional_import("tensorflow", "datasets").train.Example.FromString

    def features(index):
        path, offset, length = records[index]
        with open(path, "rb") as file:
            file.seek(offset)
            return parse(file.read(length)).features.feature

    return features


def _bytes(features, name):
    return features[name].bytes_list.value[0]

"""The data sets by name: what they hold (`describe`) and their examples (`load`).

Masks leave `load` in one form, whatever the ids of the files: class `i` is `i`, and all that
belongs to no class is 255.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_fsa import types
from keras_fsa.arguments import one_of, optional_import
from keras_fsa.datasets import ade20k, cityscapes, signal_harbor, voc_aug
from keras_fsa.datasets.archives import import_tfds, require_files, require_space
from keras_fsa.datasets.indexed import indexed_dataset
from keras_fsa.metrics import IGNORE_LABEL


@dataclass(frozen=True, eq=False)
class Description:
    """What a data set holds.

    Attributes:
        name: Name of the data set.
        class_names: Tuple of the names of the classes, in the order of their ids.
        palette: uint8 array `(classes, 3)`, the RGB colour of each class.
        splits: Dict of the names of the splits and the published number of examples in each; the
            first is the one to train on, the last the one to evaluate on.
        ignore_label: Id in the masks of the pixels of no class.
    """

    name: str
    class_names: tuple
    palette: np.ndarray
    splits: dict
    ignore_label: int = IGNORE_LABEL


@dataclass(frozen=True)
class _Layout:
    """How TFDS holds a data set: its builder, features, splits by other names, and ids."""

    builder: str
    module: object
    ids: tuple  # the raw id of each class
    ignored: tuple = ()  # further raw ids that may occur
    image: str = "image"
    mask: str = "mask"
    name: str = "name"
    splits: tuple = ()


_LAYOUTS = {
    "cityscapes": _Layout(
        "cityscapes/semantic_segmentation",
        cityscapes,
        cityscapes.RAW_IDS,
        cityscapes.IGNORED_IDS,
        "image_left",
        "segmentation_label",
        "image_id",
        (("val", "validation"),),
    ),
    "ade20k": _Layout("ade20k", ade20k, tuple(range(1, 151)), (0, 255)),
    "voc_aug": _Layout("voc_aug", voc_aug, tuple(range(21)), (255,)),
    "signal_harbor": _Layout("signal_harbor", signal_harbor, tuple(range(10)), name="index"),
}

NAMES = tuple(_LAYOUTS)
"""The names that `describe` and `load` know."""


def describe(name: str) -> Description:
    """The `Description` of a data set: class names, colours, splits. Reads no file.

    Raises:
        ValueError: If `name` is none of `NAMES`.
    """
    one_of("name", name, NAMES)
    module = _LAYOUTS[name].module
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
) -> types.Dataset:
    """The examples of a data set, which TFDS prepares on first use.

    ```python
    train = load("cityscapes", "train", data_dir="data", manual_dir="archives")
    ```

    Args:
        name: `"cityscapes"`, `"ade20k"`, `"voc_aug"` or `"signal_harbor"`.
        split: One of the splits in `describe(name).splits`.
        data_dir: Folder of TFDS for prepared data; `None` is TFDS' own (`~/tensorflow_datasets`).
        download: Whether archives that are not there may be fetched. Cityscapes wants a login,
            hence archives given by hand. What is there is prepared in any case.
        manual_dir: Folder of archives (or of what was in them) given by hand; `None` is
            `downloads/manual` in `data_dir`.
        skip_unreadable: Whether ADE20K and VOCaug leave out broken files, with a warning, when
            they are prepared. Otherwise the first broken file is an error, and so is a split that
            was prepared without some.

    Returns:
        A `tf.data.Dataset` of known cardinality in a fixed order, neither shuffled nor batched, of
        tuples `(image, mask)`: uint8 RGB `(height, width, 3)` and uint8 `(height, width)` with the
        class ids and 255.

    Raises:
        ValueError: If there is no such data set or split, or if what is prepared cannot be used.
        FileNotFoundError: If archives are missing; it says where to get them and where to put them.
        OSError: If the disk is too full to prepare the data set.
    """
    description = describe(name)
    one_of("split", split, tuple(description.splits))
    layout = _LAYOUTS[name]
    tf = optional_import("tensorflow", "examples")
    builder = _prepare(layout, data_dir, download, manual_dir, skip_unreadable)
    left_out = (builder.info.metadata or {}).get("left_out", {}).get(split)
    if left_out and not skip_unreadable:
        raise ValueError(
            f"A split must be complete. Received: {name}, {split}, prepared in {builder.data_dir} "
            f"without {len(left_out)} broken file(s), the first: {left_out[0]}. Go on without them "
            "with skip_unreadable=True, or get fresh copies, delete that folder and prepare again."
        )
    paths, offsets, lengths = _records(builder, dict(layout.splits).get(split, split))

    features, encoded = builder.info.features, import_tfds().decode.SkipDecoding()
    unknown = 254
    table = np.full(256, unknown, "uint8")
    table[list(layout.ignored)] = IGNORE_LABEL
    table[list(layout.ids)] = np.arange(len(layout.ids))

    def read(path, offset, length):
        record = tf.ensure_shape(
            tf.numpy_function(_read_record, [path, offset, length], "string"), ()
        )
        example = features.deserialize_example(record, decoders={layout.image: encoded})
        # TFDS decodes JPEG files by the fast method, up to 20 grey levels off what others read.
        # The operation takes PNG files, too.
        image = tf.io.decode_jpeg(example[layout.image], 3, dct_method="INTEGER_ACCURATE")
        image = tf.ensure_shape(image, features[layout.image].shape)
        raw = example[layout.mask][..., 0]
        mask = tf.gather(table, tf.cast(raw, tf.int32))
        wrong = tf.unique(tf.boolean_mask(raw, mask == unknown))[0]
        label = tf.strings.format("{}", example[layout.name])
        checks = [
            tf.debugging.Assert(
                tf.size(wrong) == 0, [f"{name}, {split}: ids that are no label in", label, wrong]
            ),
            tf.debugging.Assert(
                tf.reduce_all(tf.shape(image)[:2] == tf.shape(raw)),
                [f"{name}, {split}: picture and mask differ in size in", label],
            ),
        ]
        with tf.control_dependencies([check for check in checks if check is not None]):
            return tf.identity(image), tf.identity(mask)

    def name_of(index):
        record = _read_record(os.fsencode(paths[index]), offsets[index], lengths[index])
        value = tf.train.Example.FromString(record).features.feature[layout.name]
        return (value.bytes_list.value or [str(value.int64_list.value[0]).encode()])[0].decode()

    return indexed_dataset((paths, offsets, lengths), read, name_of)


def _prepare(layout, data_dir, download, manual_dir, skip_unreadable):
    """The builder of a data set, after it has prepared its files where need be."""
    tfds = import_tfds()
    options = {"skip_unreadable": True} if skip_unreadable and layout.name == "name" else {}
    builder = tfds.builder(layout.builder, data_dir=data_dir, **options)
    if builder.is_prepared():
        return builder
    root = Path(os.fspath(builder.data_dir).removesuffix(builder.info.full_name))
    manual_dir = Path(manual_dir or root / "downloads/manual")
    sources = getattr(layout.module, "SOURCES", ())
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
    """The file, the place in it and the length of each record of a split.

    TFDS' other file format, array_record, gives records by number itself, but `tfds.load` cannot
    read it; and a data set can be prepared in one format only.
    """
    info = builder.info
    if info.file_format.value != "tfrecord":
        raise ValueError(
            "A data set must be prepared as TFRecord files. Received: "
            f"file_format={info.file_format.value} in {builder.data_dir}. Pass another data_dir."
        )
    paths, offsets, lengths = [], [], []
    for path in info.splits[split].filepaths:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            place = 0
            # A record is its length (8 bytes) and a checksum (4), its content, and a checksum (4).
            while place < end:
                file.seek(place)
                length = int.from_bytes(file.read(8), "little")
                paths.append(os.fspath(path))
                offsets.append(place + 12)
                lengths.append(length)
                place += length + 16
        if place != end:
            raise ValueError(
                f"A file of records must be whole. Received: {path}, which ends early. Delete "
                f"{builder.data_dir} and prepare the data set again."
            )
    if len(paths) != info.splits[split].num_examples or not paths:
        raise ValueError(
            f"A split must hold the examples that it was prepared with, at least one. Received: "
            f"{len(paths)} of {info.splits[split].num_examples} in {builder.data_dir}. Delete it "
            "and prepare the data set again."
        )
    return paths, offsets, lengths


def _read_record(path, offset, length):
    # Outside a graph TensorFlow passes arrays.
    with open(np.asarray(path).item(), "rb") as file:
        file.seek(offset)
        return file.read(length)

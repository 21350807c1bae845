"""Masks in colour: alone, over the image, beside the ground truth."""

import colorsys
from typing import Any

import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.metrics import IGNORE_LABEL
from keras_fsa.types import Path
from keras_fsa.visualize.figure import finish, new_figure

# Pale, as VOC draws its void: black is its background.
_IGNORE_COLOUR = (224, 224, 192)


def default_palette(num_classes: int) -> np.ndarray:
    """A colour for each class, as `(num_classes, 3)` uint8 RGB.

    The first eight are those of Okabe and Ito, which colour-blind readers can distinguish; then
    hues at golden-ratio steps, in three lightnesses.
    """
    okabe_ito = (
        (86, 180, 233),
        (230, 159, 0),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (153, 153, 153),
    )
    more = (
        colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.45 + 0.25 * (i % 2), 0.55 + 0.2 * (i % 3))
        for i in range(num_classes - len(okabe_ito))
    )
    colours = [*okabe_ito, *(np.round(np.multiply(255, colour)) for colour in more)]
    return np.array(colours[:num_classes], "uint8")


def colour_mask(mask: Any, palette: Any) -> np.ndarray:
    """Class ids `(..., H, W)` as RGB uint8 `(..., H, W, 3)`; ids without a colour are pale."""
    ids = np.asarray(mask)
    table = np.full((max(256, len(palette)) + 1, 3), _IGNORE_COLOUR, "uint8")
    table[: len(palette)] = palette
    if ids.dtype != "uint8":  # all of whose ids are in the table
        ids = np.where((ids >= 0) & (ids < len(palette)), ids.astype("int64"), -1)
    return table[ids]


def colour_answers(mask: Any, palette: Any) -> np.ndarray:
    """Masks of 0 and 1 for each class, `(..., H, W, C)`, as RGB uint8 `(..., H, W, 3)`.

    A pixel of several classes has the mean of their colours, a pixel of no class is white, and one
    that is ignored in any class is pale.
    """
    mask = np.asarray(mask)
    yes = mask == 1
    count = yes.sum(-1, keepdims=True)
    colours = np.where(count, yes @ np.asarray(palette, "float64") / np.maximum(count, 1), 255)
    ignored = (mask == IGNORE_LABEL).any(-1, keepdims=True)
    return np.where(ignored, _IGNORE_COLOUR, np.round(colours)).astype("uint8")


def as_rgb(image: Any) -> np.ndarray:
    """An image with any channels and range, `(..., H, W, C)`, as RGB uint8 for display.

    RGB in 8 bits stays as it is. For other images, the first three channels are shown, or the first
    as grey, stretched from their 2nd to their 98th percentile.
    """
    image = np.asarray(image)
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        return image
    shown = image[..., : 3 if image.shape[-1] >= 3 else 1].astype("float64")
    low, high = np.percentile(shown, (2, 98), axis=(-3, -2), keepdims=True)
    shown = 255 * np.clip((shown - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.broadcast_to(np.round(shown).astype("uint8"), (*image.shape[:-1], 3))


def comparison(
    images: Any,
    masks: Any,
    predictions: Any,
    class_names: Any = None,
    palette: Any = None,
    path: Path | None = None,
    titles: Any = ("prediction",),
) -> Any:
    """Images, ground truth and predictions side by side, with a legend.

    Args:
        images: `(n, H, W, channels)`, shown by `as_rgb`.
        masks: class ids `(n, H, W)`, or 0 and 1 for each class, `(n, H, W, num_classes)`; 255, the
            ignore label, is pale.
        predictions: the same, or a list of such arrays, one for each of `titles`.
        class_names: names for the legend.
        palette: RGB colours `(num_classes, 3)`, 0 to 255. Default: `default_palette`.
        path: where the PNG goes; None to write none.
        titles: names of the predictions.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: if matplotlib is missing, with the pip command.
    """
    if len(titles) == 1 and np.shape(predictions)[:3] == np.shape(masks)[:3]:
        predictions = [predictions]
    masks = np.asarray(masks).reshape(np.shape(predictions[0]))
    each = masks.ndim == 4
    if palette is None:
        known = masks[masks != IGNORE_LABEL]
        highest = max(int(np.max(ids, initial=0)) for ids in (known, *predictions))
        count = masks.shape[-1] if each else highest + 1
        palette = default_palette(len(class_names) if class_names else count)
    in_colour = colour_answers if each else colour_mask
    columns = [("image", as_rgb(images)), ("truth", in_colour(masks, palette))]
    columns += [
        (title, in_colour(ids, palette)) for title, ids in zip(titles, predictions, strict=True)
    ]
    height, width = np.shape(images)[1:3]
    panel = 3.2
    figure = new_figure(panel * len(columns), panel * height / width * len(images) + 0.7)
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for row, axes in enumerate(grid):
        for axis, (title, panels) in zip(axes, columns, strict=True):
            axis.imshow(panels[row], interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title)
    names = class_names or [f"class {i}" for i in range(len(palette))]
    labels = dict(enumerate(names))
    if len(labels) > 30 and not each:  # ADE20K's 150 would leave no room for the images
        shown = set(np.unique([masks, *predictions]))
        labels = {id: name for id, name in labels.items() if id in shown}
    if (masks == IGNORE_LABEL).any():
        labels[IGNORE_LABEL] = "ignored"
    _legend(figure, labels, palette)
    return finish(figure, path)


def overlay(image: Any, mask: Any, palette: Any, opacity: float = 0.55) -> np.ndarray:
    """The colours of a mask laid over the image: `(1 - opacity) image + opacity colour`.

    Ignored pixels are pale, as in `colour_mask`; pixels of no class stay as they are.

    Args:
        image: `(H, W, channels)`, shown by `as_rgb`.
        mask: class ids `(H, W)`, or 0 and 1 for each class, `(H, W, num_classes)`.
        palette: RGB colours `(num_classes, 3)`, 0 to 255.
        opacity: 0 to 1.

    Returns:
        uint8 `(H, W, 3)`, rounded.
    """
    image, mask = as_rgb(image), np.asarray(mask)
    if mask.ndim == 3:
        mixed = (1 - opacity) * image + opacity * colour_answers(mask, palette)
        mixed = np.where(mask.any(-1, keepdims=True), mixed, image)
    else:
        mixed = (1 - opacity) * image + opacity * colour_mask(mask, palette)
    return np.round(mixed).astype("uint8")


def plot_overlay(
    image: Any, mask: Any, class_names: Any = None, palette: Any = None, path: Path | None = None
) -> Any:
    """An image beside the same image overlaid with its mask; the legend has each class's share.

    Args:
        image: `(H, W, channels)`, shown by `as_rgb`.
        mask: class ids `(H, W)`, or 0 and 1 for each class, `(H, W, num_classes)`; 255 is the
            ignore label.
        class_names: names for the legend. An id beyond them is shown by its number.
        palette: RGB colours `(num_classes, 3)`, 0 to 255. Default: `default_palette`.
        path: where the PNG goes; None to write none.

    Returns:
        The matplotlib figure. The legend lists the classes that occur, the largest first, with
        their shares of the pixels in per cent.

    Raises:
        ImportError: if matplotlib is missing, with the pip command.
    """
    mask = np.asarray(mask)
    height, width = mask.shape[:2]
    if mask.ndim == 3:
        counts = (mask == 1).sum(axis=(0, 1))
        ids = np.flatnonzero(counts)
        counts = counts[ids]
        palette = default_palette(mask.shape[-1]) if palette is None else palette
    else:
        ids, counts = np.unique(mask, return_counts=True)
    if palette is None:
        highest = int(ids[ids != IGNORE_LABEL].max(initial=0))
        palette = default_palette(len(class_names) if class_names else highest + 1)
    names = dict(enumerate(class_names or [f"class {i}" for i in range(len(palette))]))
    names[IGNORE_LABEL] = "ignored"
    shares = 100 * counts / (height * width)
    labels = {
        int(ids[i]): f"{names.get(int(ids[i]), f'class {ids[i]}')} {shares[i]:.1f} %"
        for i in np.argsort(-counts, kind="stable")
    }
    side = 5.25
    figure = new_figure(2 * side, side * height / width + 0.25 * -(-len(labels) // 6) + 0.2)
    for axis, shown in zip(
        figure.subplots(1, 2), (as_rgb(image), overlay(image, mask, palette)), strict=True
    ):
        axis.imshow(shown, interpolation="nearest" if width < 500 else "antialiased")
        axis.set_axis_off()
    _legend(figure, labels, palette)
    return finish(figure, path)


def _legend(figure, labels, palette):
    """Draw the names of classes, by id, below the panels."""
    if not labels:
        return
    patches = optional_import("matplotlib.patches", "tools")
    colours = dict(zip(labels, colour_mask(list(labels), palette) / 255, strict=True))
    handles = [
        patches.Patch(facecolor=colours[id], edgecolor="0.3", label=name)
        for id, name in labels.items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False
    )

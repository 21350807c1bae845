"""Pictures of what a network sees."""

import numpy as np

from keras_fsa.arguments import optional_import

IGNORE_LABEL = 255
_IGNORE_COLOUR = (0, 0, 0)


def default_palette(num_classes):
    """A colour for each class, as `(num_classes, 3)` uint8 RGB.

    The first eight are those of Okabe and Ito, which colour-blind readers can tell apart; then hues
    at golden-ratio steps, in three lightnesses.
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
    colours = optional_import("matplotlib.colors", "examples")
    i = np.arange(max(0, num_classes - len(okabe_ito)))
    hsv = np.stack([i * 0.618034 % 1, 0.45 + 0.25 * (i % 2), 0.55 + 0.2 * (i % 3)], axis=-1)
    more = np.round(255 * colours.hsv_to_rgb(hsv)) if len(i) else np.zeros((0, 3))
    return np.concatenate([okabe_ito, more])[:num_classes].astype("uint8")


def colour_mask(mask, palette):
    """Class ids `(..., H, W)` as RGB uint8 `(..., H, W, 3)`; ids without a colour are black."""
    table = np.full((256, 3), _IGNORE_COLOUR, "uint8")
    table[: len(palette)] = palette
    return table[np.asarray(mask).astype("uint8")]


def comparison(
    images, masks, predictions, class_names=None, palette=None, path=None, titles=("prediction",)
):
    """Pictures, truth and predictions side by side, with a legend.

    Args:
        images: uint8 `(n, H, W, 3)`.
        masks: class ids `(n, H, W)`; 255, the ignore label, is black.
        predictions: class ids `(n, H, W)`, or a list of such arrays, one for each of `titles`.
        class_names: names for the legend.
        palette: RGB colours `(num_classes, 3)`, 0 to 255. Default: `default_palette`.
        path: where the PNG goes; None to write none.
        titles: names of the predictions.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: where matplotlib is missing, with the pip command.
    """
    figures = optional_import("matplotlib.figure", "examples")
    patches = optional_import("matplotlib.patches", "examples")
    if len(titles) == 1:
        predictions = [predictions]
    masks = np.asarray(masks).reshape(np.shape(predictions[0]))
    if palette is None:
        known = masks[masks != IGNORE_LABEL]
        highest = max(int(np.max(ids, initial=0)) for ids in (known, *predictions))
        palette = default_palette(len(class_names) if class_names else highest + 1)
    columns = [("picture", images), ("truth", colour_mask(masks, palette))]
    columns += [
        (title, colour_mask(ids, palette)) for title, ids in zip(titles, predictions, strict=True)
    ]
    height, width = np.shape(images)[1:3]
    panel = 3.2
    figure = figures.Figure(
        figsize=(panel * len(columns), panel * height / width * len(images) + 0.7),
        dpi=110,
        layout="constrained",
    )
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for row, axes in enumerate(grid):
        for axis, (title, pictures) in zip(axes, columns, strict=True):
            axis.imshow(pictures[row], interpolation="nearest")
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title)
    names = class_names or [f"class {i}" for i in range(len(palette))]
    handles = [
        patches.Patch(facecolor=np.asarray(colour) / 255, edgecolor="0.3", label=name)
        for name, colour in zip(names, palette, strict=True)
    ]
    if (masks == IGNORE_LABEL).any():
        handles.append(patches.Patch(color=_IGNORE_COLOUR, label="ignored"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False
    )
    if path is not None:
        figure.savefig(path)
    return figure


def confusion_picture(confusion, class_names=None, path=None):
    """A confusion matrix as a picture: what became of the pixels of each class, in percent.

    Each row is a true class and sums to 100; the diagonal holds the class accuracies. Rows without
    a pixel are grey. Numbers are written in for up to 30 classes.

    Args:
        confusion: counts `(num_classes, num_classes)`, rows truth, columns prediction.
        class_names: names of the classes.
        path: where the PNG goes; None to write none.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: where matplotlib is missing, with the pip command.
    """
    figures = optional_import("matplotlib.figure", "examples")
    confusion = np.asarray(confusion, "float64")
    n = len(confusion)
    total = confusion.sum(1, keepdims=True)
    nothing = np.full_like(confusion, np.nan)
    percent = np.divide(100 * confusion, total, out=nothing, where=total > 0)
    side = min(max(4.5, 0.42 * n), 14)
    font = min(9, 72 * side / n * 0.5)
    figure = figures.Figure(figsize=(side + 2.4, side + 1.6), dpi=130, layout="constrained")
    axis = figure.subplots()
    axis.set_facecolor("0.85")
    image = axis.imshow(percent, vmin=0, vmax=100, cmap="Blues")
    names = class_names or [f"class {i}" for i in range(n)]
    axis.set_xticks(range(n), names, rotation=90, fontsize=font)
    axis.set_yticks(range(n), names, fontsize=font)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if n <= 30:
        for (row, column), value in np.ndenumerate(percent):
            # Less than half a percent is the noise of boundaries.
            if value >= 0.5:
                colour = "white" if value > 60 else "black"
                axis.text(
                    *(column, row, f"{value:.0f}"),
                    **{"ha": "center", "va": "center", "color": colour, "fontsize": 0.85 * font},
                )
    figure.colorbar(image, shrink=0.8, label="percent of the true class")
    if path is not None:
        figure.savefig(path)
    return figure

"""What one position attends to, as a plot."""

from typing import Any

import numpy as np
from keras import ops

from keras_fsa._deprecation import renamed_arguments
from keras_fsa.attention_map import attention_at
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.types import Path
from keras_fsa.visualize.figure import finish, new_figure


@renamed_arguments(picture="image")
def plot_attention(
    feature_map: Any,
    layers: dict[str, SelfAttention],
    row: int,
    column: int,
    image: np.ndarray | None = None,
    path: Path | None = None,
) -> Any:
    """The attention maps of one position, for several layers side by side.

    Each map has its own colour scale, in multiples of `1 / N`, the weight that each of the `N`
    positions has in a plain mean. If a map has negative weights, as dot products may have, white is
    zero.

    Args:
        feature_map: `(H, W, C)`, the input of the layers, see `attention_at`.
        layers: the layers by title, for instance `{"FSA": layer, "softmax": softmax_twin(layer)}`,
            see `keras_fsa.attention_map.softmax_twin`.
        row, column: the position in the feature map. A cross marks it.
        image: uint8 RGB of any size, to be shown beside the maps; None for none.
        path: where the PNG goes; None to write none.

    Returns:
        The matplotlib figure. Its axes: the image, if given; then a map for each layer.

    Raises:
        ValueError: as `attention_at`, or if there is no layer.
        ImportError: if matplotlib is missing, with the pip command.
    """
    if not layers:
        raise ValueError(
            f"`layers` must hold at least one layer. Received: layers={layers!r}. Pass "
            '{"title": layer}.'
        )
    maps = {
        title: ops.convert_to_numpy(attention_at(layer, feature_map, row, column))
        for title, layer in layers.items()
    }
    height, width = next(iter(maps.values())).shape
    panels = len(maps) + (image is not None)
    side = 10.5 / max(panels, 2)
    figure = new_figure(side * panels, side * 0.88 * height / width + 0.75)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    # Image and maps share one system of coordinates: the positions of the feature map.
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    if image is not None:
        axes[0].imshow(image, extent=extent)
        axes[0].set_title("image, and the position that attends")
    for axis, (title, weights) in zip(axes[-len(maps) :], maps.items(), strict=True):
        bar = figure.colorbar(
            show_attention(axis, weights), ax=axis, orientation="horizontal", shrink=0.8, aspect=30
        )
        bar.set_label("weight, in multiples of the mean's 1 / N", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        axis.set_title(title)
    for axis in axes:
        mark(axis, row, column)
        axis.set_xticks([])
        axis.set_yticks([])
    return finish(figure, path)


def show_attention(axis: Any, weights: np.ndarray) -> Any:
    """An attention map `(H, W)` on an axis, in multiples of `1 / N`; matplotlib's image."""
    multiples = weights * weights.size
    largest = np.abs(multiples).max()
    if multiples.min() < -1e-6 * largest:
        scale = {"cmap": "PuOr_r", "vmin": -largest, "vmax": largest}
    else:
        scale = {"cmap": "viridis", "vmin": 0}
    return axis.imshow(multiples, interpolation="nearest", **scale)


def mark(axis: Any, row: float, column: float) -> None:
    """Draw a cross that is visible on light and on dark."""
    axis.plot(column, row, "+", color="black", markersize=15, markeredgewidth=4.5)
    axis.plot(column, row, "+", color="white", markersize=13, markeredgewidth=2)

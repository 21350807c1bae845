"""Plots of a feature map's spectrum, and of what remains of an image at few frequencies."""

from typing import Any

import numpy as np
from keras import ops

from keras_fsa import spectral
from keras_fsa.arguments import optional_import
from keras_fsa.energy import energy_held, energy_shares
from keras_fsa.types import Frequencies, Path
from keras_fsa.visualize.figure import LINE_COLOURS, finish, new_figure


def plot_spectrum(feature_map: Any, frequencies: int = 8, path: Path | None = None) -> Any:
    """Where the energy of a feature map lies, and how much of it `k x k` frequencies hold.

    On the left, the share of each frequency, on a logarithmic scale, with a frame around the band;
    on the right, the combined share of the `k x k` lowest frequencies, with and without the mean,
    which is in the constant frequency alone.

    Args:
        feature_map: `(H, W, C)`, channels last.
        frequencies: the int `k` to mark; at most height and width.
        path: where the PNG goes; None to write none.

    Returns:
        The matplotlib figure, whose first two axes are the two panels.

    Raises:
        ValueError: for a map that is not of rank 3, or `k` beyond its size.
        ImportError: if matplotlib is missing, with the pip command.
    """
    shares = energy_shares(feature_map)
    spectral.check_band_fits(frequencies, *shares.shape)
    k = frequencies
    held = ops.convert_to_numpy(energy_held(shares))
    centred = ops.convert_to_numpy(energy_held(energy_shares(feature_map, without_mean=True)))
    shares = ops.convert_to_numpy(shares)

    patches = optional_import("matplotlib.patches", "tools")
    figure = new_figure(10.5, 4.4)
    left, right = figure.subplots(1, 2)
    # Six decades; what is below is rounding or nothing.
    decades = np.log10(np.maximum(shares, 1e-6))
    image = left.imshow(decades, cmap="viridis", vmin=-6, vmax=0)
    frame = {"fill": False, "edgecolor": "white", "linewidth": 2}
    left.add_patch(patches.Rectangle((-0.5, -0.5), k, k, **frame))
    left.set_title(f"energy of each frequency, {k} x {k} framed")
    left.set_xlabel("horizontal frequency")
    left.set_ylabel("vertical frequency")
    bar = figure.colorbar(image, ax=left, shrink=0.85, ticks=range(-6, 1, 2))
    bar.ax.set_yticklabels(["$10^{-6}$", "$10^{-4}$", "$10^{-2}$", "all"])

    x = np.arange(1, len(held) + 1)
    for values, name, colour in (
        (held, "energy", LINE_COLOURS[0]),
        (centred, "energy without the mean", LINE_COLOURS[1]),
    ):
        label = f"{name}: {100 * values[k - 1]:.1f} % at k = {k}"
        right.plot(x, 100 * values, color=colour, linewidth=2.2, label=label)
        right.plot(k, 100 * values[k - 1], "o", color=colour, markersize=7)
    right.axvline(k, color="0.6", linewidth=0.8, zorder=0)
    right.set_title("energy held by the lowest k x k frequencies")
    right.set_xlabel("k")
    right.set_ylabel("per cent")
    right.set_xlim(1, len(held))
    right.set_ylim(0, 103)
    right.grid(color="0.92")
    right.legend(loc="lower right", frameon=False)
    return finish(figure, path)


def plot_truncation(image: Any, frequencies: Frequencies = 8, path: Path | None = None) -> Any:
    """An image, its low frequencies, and the difference, side by side.

    The low frequencies are what attention sees. The difference holds the edges; it bypasses
    attention on the residual path, so attending at low frequency blurs nothing.

    Args:
        image: RGB `(H, W, 3)` from 0 to 255, or one channel of a map `(H, W)`, of any range.
        frequencies: the band, see `keras_fsa.spectral.parse_frequencies`.
        path: where the PNG goes; None to write none.

    Returns:
        The matplotlib figure. Its first three axes show the arrays before, after (colours rounded
        and clipped to 0 to 255) and the difference, averaged over colours.

    Raises:
        ValueError: for another shape, or a band beyond the size of the image.
        ImportError: if matplotlib is missing, with the pip command.
    """
    before = np.asarray(ops.convert_to_numpy(image), "float32")
    if before.ndim not in (2, 3) or before.shape[2:] not in ((), (3,)):
        raise ValueError(
            "`image` must be RGB (H, W, 3), or one channel (H, W). Received: image of shape "
            f"{before.shape}. Choose a channel of a feature map: features[..., 0]."
        )
    rgb = before.ndim == 3
    x = before if rgb else before[..., None]
    after = ops.convert_to_numpy(spectral.low_pass(x[None], frequencies))[0]
    share = _share(x, after)
    difference = (x - after).mean(axis=-1)
    (u0, u1), (v0, v1) = spectral.parse_frequencies(frequencies)
    height, width = before.shape[:2]

    figure = new_figure(10.5, 3.4 * height / width + 0.75)
    axes = figure.subplots(1, 3)
    if rgb:
        before = before.astype("uint8")
        after = np.clip(np.round(after), 0, 255).astype("uint8")
        colours = {}
    else:
        after = after[..., 0]
        colours = {"cmap": "viridis", "vmin": before.min(), "vmax": before.max()}
    axes[0].imshow(before, interpolation="nearest", **colours)
    axes[0].set_title(f"before: {height} x {width} positions")
    axes[1].imshow(after, interpolation="nearest", **colours)
    axes[1].set_title(f"attention sees {u1 - u0} x {v1 - v0} frequencies")
    axes[1].set_xlabel(f"{100 * share:.1f} % of the energy")
    limit = np.abs(difference).max() or 1.0
    axes[2].imshow(difference, interpolation="nearest", cmap="gray", vmin=-limit, vmax=limit)
    axes[2].set_title("difference: edges bypass it")
    axes[2].set_xlabel(f"{100 * (1 - share):.1f} % of the energy")
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    return finish(figure, path)


def _share(x, part):
    total = np.square(x, dtype="float64").sum()
    return np.square(part, dtype="float64").sum() / total if total else 1.0

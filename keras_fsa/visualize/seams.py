"""The cost of windows: a prediction's error as a function of the distance to a window's border."""

from typing import Any

import numpy as np

from keras_fsa.types import Path
from keras_fsa.visualize.figure import LINE_COLOURS, finish, new_figure, style_lines


def seam_errors(exact: np.ndarray, prediction: np.ndarray, seams: Any) -> np.ndarray:
    """The mean error at each distance from the nearest seam.

    Args:
        exact: the prediction for the whole image: probabilities `(H, W, num_classes)`, or ids
            `(H, W)`.
        prediction: the same for a prediction in windows or tiles.
        seams: `(rows, columns)`: where windows begin and end, pixel borders from 0 to `H` and `W`.
            A seam `s` lies between the pixels `s - 1` and `s`.

    Returns:
        float64 `(distances,)`. Entry `d` is the mean error of the pixels that lie `d` pixels from
        their nearest seam (0: at the seam). The error is half the sum over classes of absolute
        differences (the share of misplaced probability); for ids, whether they differ. NaN for a
        distance that does not occur.

    Raises:
        ValueError: for different shapes, NaN, or seams that are not two lists of ints within the
            image.
    """
    exact, prediction = np.asarray(exact), np.asarray(prediction)
    if exact.shape != prediction.shape or exact.ndim not in (2, 3) or not exact.size:
        raise ValueError(
            "`exact` and `prediction` must have one shape, (H, W) or (H, W, num_classes). Received:"
            f" exact of shape {exact.shape}, prediction of shape {prediction.shape}. Pass both as "
            "ids or both as probabilities of one image."
        )
    if exact.ndim == 2:
        error = (exact != prediction).astype("float64")
    else:
        error = np.abs(exact - prediction.astype("float64")).sum(-1) / 2
    if not np.isfinite(error).all():
        raise ValueError(
            "`exact` and `prediction` must be finite. Received: probabilities with NaN or infinity."
            " Look for NaN in the model's output."
        )
    try:
        lines = [np.asarray(line).astype("int64") for line in seams]
        valid = len(lines) == 2 and all(
            line.ndim == 1 and ((line >= 0) & (line <= size)).all() and (line == given).all()
            for line, size, given in zip(lines, error.shape, seams, strict=True)
        )
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid or not any(map(len, lines)):
        raise ValueError(
            "`seams` must be (rows, columns), ints within the image and at least one. Received: "
            f"seams={repr(seams)[:200]} for an image of {error.shape[0]} x {error.shape[1]}. Pass "
            "([64, 128], [64, 128]) for windows of 64 in an image of 192 x 192."
        )
    far = max(error.shape)
    rows, columns = (
        np.min(
            [np.full(size, far), *(_distance(size, seam) for seam in line if 0 < seam < size)],
            axis=0,
        )
        for line, size in zip(lines, error.shape, strict=True)
    )
    distance = np.minimum(rows[:, None], columns).reshape(-1)
    count = np.bincount(distance)
    total = np.bincount(distance, error.reshape(-1))
    nothing = np.full(len(count), np.nan)
    # Where there is no seam at all every pixel is "far": no distance.
    return np.divide(total, count, out=nothing, where=count > 0)[:far]


def plot_seams(
    exact: np.ndarray,
    predictions: dict[str, np.ndarray],
    seams: Any,
    path: Path | None = None,
    distance: int | None = None,
) -> Any:
    """The error of predictions in windows, over the distance to the nearest seam.

    Args:
        exact: the prediction for the whole image, see `seam_errors`.
        predictions: predictions by title, for instance `{"plain": ..., "hann": ..., "exact tiles":
            ...}`.
        seams: `(rows, columns)`, see `seam_errors`.
        path: where the PNG goes; None to write none.
        distance: largest distance to show, in pixels. Default: all.

    Returns:
        The matplotlib figure: a line for each prediction, with its mean error in the legend.

    Raises:
        ValueError: as `seam_errors`, or if there is no prediction.
        ImportError: if matplotlib is missing, with the pip command.
    """
    if not isinstance(predictions, dict) or not predictions:
        raise ValueError(
            "`predictions` must hold at least one prediction. Received: "
            f"predictions={repr(predictions)[:200]}. Pass {{'plain windows': probabilities}}."
        )
    figure = new_figure(7.5, 4.2)
    axis = figure.subplots()
    for i, (title, prediction) in enumerate(predictions.items()):
        errors = seam_errors(exact, prediction, seams)[:distance]
        known = np.isfinite(errors)
        axis.plot(
            np.flatnonzero(known),
            100 * errors[known],
            color=LINE_COLOURS[i % len(LINE_COLOURS)],
            linewidth=2,
            label=f"{title}: {100 * _mean_error(exact, prediction):.2f} % on average",
        )
    ids = np.ndim(exact) == 2
    axis.set_xlabel("distance to the nearest seam in pixels")
    axis.set_ylabel("pixels that differ, %" if ids else "misplaced probability, %")
    axis.set_ylim(bottom=0)
    style_lines(axis)
    return finish(figure, path)


def _distance(size, seam):
    """The distance of each pixel to a seam: 0 for the two that touch it."""
    pixel = np.arange(size)
    return np.where(pixel < seam, seam - 1 - pixel, pixel - seam)


def _mean_error(exact, prediction):
    exact, prediction = np.asarray(exact), np.asarray(prediction)
    if exact.ndim == 2:
        return np.mean(exact != prediction)
    return np.abs(exact - prediction.astype("float64")).sum(-1).mean() / 2

"""Plots of a training's course and of the scores it reached."""

import csv
import os
from typing import Any

import numpy as np

from keras_fsa.types import Path
from keras_fsa.visualize.figure import LINE_COLOURS, finish, new_figure, style_lines

# Columns of a log that are no scores.
_NOT_SCORES = ("epoch", "step", "learning_rate", "seconds_per_step")
# What the names of scores on validation data begin with, in Keras and in `keras_fsa.training`.
_VALIDATION = ("val_", "validation_")


def plot_training(history: Any, path: Path | None = None) -> Any:
    """Loss and metrics over time: a panel for each, with training and validation.

    Args:
        history: what `model.fit` returns; or its dict `history.history`; or the path of a file
            written by `keras.callbacks.CSVLogger`, or of a `history.csv` of `keras_fsa.training`,
            which counts steps.
        path: where the PNG goes; None to write none.

    Returns:
        The matplotlib figure, with an axis for each score, the loss first.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the history has no epoch or no score, or a score for some epochs without
            saying for which.
        ImportError: if matplotlib is missing, with the pip command.
    """
    table, unit, times = _table(history)
    scores: dict[str, dict[str, np.ndarray]] = {}
    for name in table:
        if name not in _NOT_SCORES:
            prefix = next((p for p in _VALIDATION if name.startswith(p)), "")
            part = "validation" if prefix else "training"
            scores.setdefault(name.removeprefix(prefix), {})[part] = np.asarray(table[name])
    if not scores or not len(times):
        raise ValueError(
            "`history` must hold at least one epoch and one score. Received: history="
            f"{history!r} with the columns {list(table)} and {len(times)} epochs. Pass what "
            "`model.fit` returns, or a file of keras.callbacks.CSVLogger."
        )
    # `fit` logs metrics in the order of their names; the loss is what readers look at first.
    names = sorted(scores, key=lambda name: name != "loss")
    figure = new_figure(max(5.25, min(10.5, 5.25 * len(names))), 3.6)
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for part, colour in zip(("training", "validation"), LINE_COLOURS, strict=False):
            if part in scores[name]:
                values = _at_each(scores[name][part], times, f"{part} {name}")
                # Not every epoch has a validation; one alone makes no line, so few get marks.
                known = np.isfinite(values)
                marker = "o" if known.sum() <= 30 else None
                style = {"color": colour, "linewidth": 2, "marker": marker, "markersize": 4}
                axis.plot(times[known], values[known], label=part, **style)
        axis.set_title(name.replace("_", " "))
        axis.set_xlabel(unit)
        axis.xaxis.get_major_locator().set_params(integer=True)
        style_lines(axis)
    return finish(figure, path)


def plot_iou(
    scores: Any,
    class_names: list[str] | None = None,
    titles: tuple[str, ...] = ("IoU",),
    path: Path | None = None,
) -> Any:
    """The IoU of each class as bars, with the mean below them.

    Args:
        scores: `(num_classes,)`, 0 to 1, NaN for a class that never occurred; or a list of such
            arrays, one for each of `titles`, whose bars are drawn side by side.
        class_names: names of the classes.
        titles: names of what is compared.
        path: where the PNG goes; None to write none.

    Returns:
        The matplotlib figure. The mean is over the classes that occurred.

    Raises:
        ValueError: if scores, titles and names do not match, or a score is not in [0, 1].
        ImportError: if matplotlib is missing, with the pip command.
    """
    scores = np.atleast_2d(np.asarray(scores, "float64"))
    names = list(class_names or [f"class {i}" for i in range(scores.shape[-1])])
    if scores.shape != (len(titles), len(names)):
        raise ValueError(
            "`scores` must have a row for each title and a number for each class. Received: scores "
            f"of shape {scores.shape} for {len(titles)} titles and {len(names)} class names. Pass "
            "a list of arrays (num_classes,)."
        )
    if not ((scores >= 0) & (scores <= 1) | np.isnan(scores)).all():
        raise ValueError(
            "`scores` must lie in [0, 1], or be NaN. Received: scores from "
            f"{np.nanmin(scores):g} to {np.nanmax(scores):g}. Divide per cent by 100."
        )
    known = np.isfinite(scores)
    total = np.where(known, scores, 0).sum(axis=1)
    count = known.sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    # The mean stands apart, half a bar below.
    y = np.append(np.arange(len(names)), len(names) + 0.5)
    bar = 0.8 / len(titles)
    figure = new_figure(7.5, (0.14 + 0.2 * len(titles)) * (len(names) + 1.5) + 1.0)
    axis = figure.subplots()
    for i, (title, row) in enumerate(zip(titles, scores, strict=True)):
        values = np.append(row, mean[i])
        where = y - 0.4 + bar * (i + 0.5)
        colour = LINE_COLOURS[i % len(LINE_COLOURS)]
        axis.barh(where, np.nan_to_num(values), 0.92 * bar, color=colour, label=title)
        for position, value in zip(where, values, strict=True):
            text = "absent" if np.isnan(value) else f"{value:.3f}"
            place = (np.nan_to_num(value) + 0.01, position)
            axis.text(*place, text, va="center", fontsize=8, color="0.25")
    axis.set_yticks(y, [*names, "mean"])
    axis.invert_yaxis()
    axis.axhline(len(names) - 0.25, color="0.7", linewidth=0.8)
    axis.set_xlim(0, 1.1)
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.set_xlabel("intersection over union")
    axis.spines[["top", "right"]].set_visible(False)
    if len(titles) > 1:
        figure.legend(loc="outside upper center", ncols=len(titles), frameon=False)
    return finish(figure, path)


def plot_confusion(
    confusion: Any, class_names: list[str] | None = None, path: Path | None = None
) -> Any:
    """A confusion matrix as an image: how the pixels of each class were predicted, in per cent.

    Each row is a true class and sums to 100; the diagonal holds the class accuracies. Rows without
    a pixel are grey. Numbers are shown for up to 30 classes.

    Args:
        confusion: counts `(num_classes, num_classes)`, rows truth, columns prediction.
        class_names: names of the classes.
        path: where the PNG goes; None to write none.

    Returns:
        The matplotlib figure.

    Raises:
        ImportError: if matplotlib is missing, with the pip command.
    """
    confusion = np.asarray(confusion, "float64")
    n = len(confusion)
    total = confusion.sum(1, keepdims=True)
    nothing = np.full_like(confusion, np.nan)
    percent = np.divide(100 * confusion, total, out=nothing, where=total > 0)
    side = min(max(4.5, 0.42 * n), 14)
    font = min(9, 72 * side / n * 0.5)
    figure = new_figure(side + 2.4, side + 1.6)
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
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=0.85 * font,
                )
    figure.colorbar(image, shrink=0.8, label="percent of the true class")
    return finish(figure, path)


def plot_overlaps(
    confusions: Any, class_names: list[str] | None = None, path: Path | None = None
) -> Any:
    """Yes-or-no answers as a bar for each class: found, missed and wrongly found pixels.

    The bars are shares of all pixels that have the class in the truth or in the answer, so the
    first part of a bar is the IoU, whose value is written beside it.

    Args:
        confusions: counts `(num_classes, 2, 2)` of `keras_fsa.metrics.binary_confusions`: rows
            truth, columns answer, no before yes.
        class_names: names of the classes.
        path: where the PNG goes; None to write none.

    Returns:
        The matplotlib figure. A class that does not occur has no bar.

    Raises:
        ValueError: for anything other than two by two counts for each class.
        ImportError: if matplotlib is missing, with the pip command.
    """
    counts = np.asarray(confusions, "float64")
    names = list(class_names or [f"class {i}" for i in range(len(counts))])
    if counts.shape != (len(names), 2, 2):
        raise ValueError(
            "`confusions` must be (num_classes, 2, 2), with a name for each class. Received: "
            f"confusions of shape {counts.shape} for {len(names)} names. Pass what "
            "keras_fsa.metrics.binary_confusions returns."
        )
    parts = {"found": counts[:, 1, 1], "missed": counts[:, 1, 0], "wrongly found": counts[:, 0, 1]}
    total = np.sum([*parts.values()], axis=0)
    figure = new_figure(7.5, 0.34 * len(names) + 1.3)
    axis = figure.subplots()
    left = np.zeros(len(names))
    for (label, values), colour in zip(parts.items(), LINE_COLOURS, strict=False):
        share = np.divide(values, total, out=np.zeros_like(left), where=total > 0)
        axis.barh(range(len(names)), share, 0.7, left=left, color=colour, label=label)
        left += share
    for i, (hits, pixels) in enumerate(zip(parts["found"], total, strict=True)):
        text = f"{hits / pixels:.3f}" if pixels else "absent"
        axis.text(1.01 if pixels else 0.01, i, text, va="center", fontsize=8, color="0.25")
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, 1.1)
    axis.set_xticks(np.linspace(0, 1, 6))
    axis.set_xlabel(
        "share of the pixels where the class is or is said to be; the number is the IoU"
    )
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(parts), frameon=False)
    return finish(figure, path)


def _table(history):
    """Columns of numbers by name; the unit of time; and the times, epochs counted from one."""
    if isinstance(history, (str, os.PathLike)):
        with open(history, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        table = {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else ())}
    else:
        table = dict(getattr(history, "history", history))
        if getattr(history, "epoch", None):
            table["epoch"] = history.epoch
    if "step" in table:
        return table, "step", np.asarray(table["step"])
    length = max((len(column) for column in table.values()), default=0)
    return table, "epoch", np.asarray(table.get("epoch", range(length)), "float64") + 1


def _at_each(values, times, name):
    """A number for each time: `fit(validation_freq=n)` keeps only those of every n-th epoch."""
    if len(values) == len(times):
        return values
    # Several n may mean the same epochs.
    kept = {tuple(times % n == 0) for n in range(2, int(times[-1]) + 1)}
    fitting = [epochs for epochs in kept if sum(epochs) == len(values)]
    if len(fitting) != 1:
        raise ValueError(
            "`history` must tell the epoch of each score. Received: history with "
            f"{len(values)} values of {name!r} for {len(times)} epochs. Pass a file of "
            "keras.callbacks.CSVLogger, which has a line for each epoch."
        )
    column = np.full(len(times), np.nan)
    column[np.array(fitting[0])] = values
    return column


def _number(text):
    # CSVLogger writes "NA" where an epoch has no validation.
    return float("nan") if text in ("", "NA", None) else float(text)

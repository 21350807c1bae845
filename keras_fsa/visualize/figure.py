"""What all plots share: a figure of a README's width, and writing it to a file."""

from typing import Any

from keras_fsa.arguments import optional_import
from keras_fsa.files import whole_file
from keras_fsa.types import Path

# Okabe and Ito's blue and vermillion first, for what is compared most often.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of this size in inches; no window, no global state."""
    figures = optional_import("matplotlib.figure", "tools")
    return figures.Figure(figsize=(width, height), dpi=110, layout="constrained")


def can_draw() -> bool:
    """Whether matplotlib is installed; if not, a printed line says what to install."""
    try:
        optional_import("matplotlib", "tools")
    except ImportError as error:
        print(f"Drawing is off: {error}")
        return False
    return True


def style_lines(axis: Any, **legend: Any) -> None:
    """Style the axes of a line plot: a faint grid, no top and right frame, a frameless legend.

    Args:
        axis: matplotlib axes.
        **legend: of `matplotlib.axes.Axes.legend`, such as its place.
    """
    axis.grid(color="0.92")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, **legend)


def finish(figure: Any, path: Path | None) -> Any:
    """Write the figure as a PNG, unless `path` is None, and return it."""
    if path is not None:
        with whole_file(path) as unfinished:
            figure.savefig(unfinished, format="png")
    return figure

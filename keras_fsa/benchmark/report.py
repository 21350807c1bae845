"""The table and the plot of a benchmark's rows."""

from keras_fsa.arguments import optional_import
from keras_fsa.benchmark.bars import PAPER_SAVINGS

_LABELS = {
    "time": "time, ms",
    "memory": "peak extra memory, MiB",
    "flops": "forward pass, GFLOP",
}
_UNITS = {"time": 1e-3, "memory": 2**20, "flops": 1e9}


def _number(value, unit=1.0):
    return "" if value is None else f"{value / unit:.3g}"


def _markdown(header, alignment, lines):
    table = [header, alignment, *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in table)


def markdown(rows):
    """A Markdown table of rows: what each method costs, and in units of regular and of a copy."""
    lines = []
    for row in rows:
        regular, copy = row["vs_regular"], row["vs_copy"]
        lines.append(
            [
                f"{row['height']}x{row['width']}",
                row["method"],
                row["mode"] + (", training" if row["training"] else ""),
                _number(row["time"], _UNITS["time"]),
                row["rounds"],
                _number(row["flops"], _UNITS["flops"]),
                _number(row["memory"], _UNITS["memory"]),
                _number(regular["time"]),
                _number(regular["flops"]),
                _number(regular["memory"]),
                _number(copy["time"]),
                _number(copy["memory"]),
                row.get("note", ""),
            ]
        )
    header = ["size", "method", "mode", "ms", "rounds", "GFLOP", "MiB"]
    header += [f"{key} / regular" for key in ("ms", "GFLOP", "MiB")]
    header += ["ms / copy", "MiB / copy", "note"]
    alignment = ["---"] * 3 + ["---:"] * 9 + ["---"]
    return _markdown(header, alignment, lines)


def markdown_bars(bars):
    """A Markdown table of bars, or an empty string."""
    lines = [
        [bar["bar"], bar["mode"], bar["required"], _number(bar["measured"]), bar["holds"]]
        for bar in bars
    ]
    header = ["bar", "mode", "required", "measured", "holds"]
    return _markdown(header, ["---", "---", "---", "---:", "---"], lines) if lines else ""


def plot(rows):
    """Time, memory and operations against the number of positions, on logarithmic axes.

    Shaded is where the paper's savings lie, taken from the regular attention of this run. One row
    of panels for each mode, training apart.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: where matplotlib is missing, with the pip command.
    """
    figures = optional_import("matplotlib.figure", "examples")
    groups = {}
    for row in rows:
        title = row["mode"] + (", training" if row["training"] else "")
        groups.setdefault(title, {}).setdefault(row["method"], []).append(row)
    figure = figures.Figure(figsize=(16, 5 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 3, squeeze=False)
    for axes_row, (title, methods) in zip(panels, groups.items(), strict=True):
        for axes, (key, label) in zip(axes_row, _LABELS.items(), strict=True):
            for name, points in methods.items():
                points = sorted((p for p in points if p[key]), key=lambda p: p["positions"])
                if not points:
                    continue
                x = [point["positions"] for point in points]
                y = [point[key] / _UNITS[key] for point in points]
                axes.plot(x, y, marker="o", label=name)
                if name == "regular":
                    low, high = PAPER_SAVINGS[key]
                    bands = [[(1 - saving) * value for value in y] for saving in (high, low)]
                    axes.fill_between(x, *bands, color="0.85", label="paper's saving")
            axes.set(xscale="log", yscale="log", xlabel="positions", ylabel=label, title=title)
            axes.grid(alpha=0.3)
        axes_row[0].legend(fontsize="x-small")
    return figure

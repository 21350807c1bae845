"""The table and the plot of a benchmark's rows."""

from typing import Any

from benchmarks.bars import PAPER_SAVINGS
from keras_fsa.arguments import optional_import

_LABELS = {
    "time": "time, ms",
    "memory": "peak extra memory, MiB",
    "flops": "forward pass, GFLOP",
}
_UNITS = {"time": 1e-3, "memory": 2**20, "flops": 1e9}


def _number(value, unit=1.0):
    return "" if value is None else f"{value / unit:.3g}"


def _markdown(header, alignment, lines):
    rows = [header, alignment, *lines]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in rows)


def table(header: list[str], lines: list[list]) -> str:
    """A Markdown table of words in its first column and figures in the others."""
    return _markdown(header, ["---", *["---:"] * (len(header) - 1)], lines)


def markdown(rows: list[dict]) -> str:
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


def markdown_bars(bars: list[dict]) -> str:
    """A Markdown table of bars, or an empty string."""
    lines = [
        [bar["bar"], bar["mode"], bar["required"], _number(bar["measured"]), bar["holds"]]
        for bar in bars
    ]
    header = ["bar", "mode", "required", "measured", "holds"]
    return _markdown(header, ["---", "---", "---", "---:", "---"], lines) if lines else ""


def markdown_comparison(before: dict, now: dict, tolerance: float = 0.1) -> str:
    """A Markdown table of two runs' times and memory, row by row, and what got worse.

    Args:
        before, now: results, as `--json` writes them.
        tolerance: share by which a figure may grow before it counts as worse.

    Returns:
        The table of the rows that both runs hold; a ratio above 1 is worse than before.

    Raises:
        ValueError: where the runs differ in what a row does not say, or have no row in common.
    """
    # Of runs that do not say their clock.
    settings = [{"clock": "wall time", **run["setting"]} for run in (before, now)]
    for name in ("channels", "batch", "frequencies", "clock"):
        one, other = (setting[name] for setting in settings)
        if one != other:
            raise ValueError(
                f"Two runs must have the same {name} to be compared. Received: {name}={one!r} "
                f"before, {name}={other!r} now. Run again with that of the earlier one."
            )
    keys = ("method", "mode", "training", "height", "width", "dtype")
    earlier = {tuple(row[key] for key in keys): row for row in before["rows"]}
    lines = []
    for row in now["rows"]:
        other = earlier.get(tuple(row[key] for key in keys))
        if other is None:
            continue
        ratios = {
            key: row[key] / other[key] if row[key] and other[key] else None
            for key in ("time", "memory")
        }
        worse = [key for key, ratio in ratios.items() if ratio and ratio > 1 + tolerance]
        name = row["method"] + (", training" if row["training"] else "")
        size = f"{row['height']}x{row['width']}"
        lines.append([size, name, row["mode"], *map(_number, ratios.values()), " and ".join(worse)])
    if not lines:
        raise ValueError(
            "Two runs must have rows in common to be compared. Received: runs of "
            f"{len(earlier)} and {len(now['rows'])} rows. Give both the same sizes and methods."
        )
    header = ["size", "method", "mode", f"time / {before['date'][:10]}", "memory", "worse"]
    return _markdown(header, ["---"] * 3 + ["---:"] * 2 + ["---"], lines)


# Ours are the thick lines. Colours of Okabe and Ito, which colour-blind readers can tell apart.
_LINES: dict[str, dict] = {
    "copy": {"color": "0.5", "linestyle": ":"},
    "regular": {"color": "black"},
    "fused": {"color": "black", "linestyle": "--"},
    "fused_bfloat16": {"color": "black", "linestyle": "-."},
    "dense": {"color": "#e69f00"},
    "criss_cross": {"color": "#cc79a7"},
    "ema": {"color": "#009e73"},
    "efficient": {"color": "#56b4e9"},
    "dot_product": {"color": "#0072b2", "linewidth": 3},
    "dot_product_r2": {"color": "#0072b2", "linewidth": 3, "linestyle": "--"},
    "dot_product_r4": {"color": "#0072b2", "linewidth": 3, "linestyle": ":"},
    "dot_product_bfloat16": {"color": "#0072b2", "linewidth": 3, "linestyle": "-."},
    "linear_softmax": {"color": "#d55e00", "linewidth": 3},
    "linear_softmax_r2": {"color": "#d55e00", "linewidth": 3, "linestyle": "--"},
}


def plot(rows: list[dict]) -> Any:
    """Time, memory and operations against the number of positions, on logarithmic axes.

    Shaded is where the paper's savings lie, taken from the regular attention of this run. One row
    of panels for each mode, training apart, of which operations are not counted. Unknown sizes,
    which only our methods are measured at, are left to the table.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: where matplotlib is missing, with the pip command.
    """
    figures = optional_import("matplotlib.figure", "tools")
    groups: dict[str, dict] = {}
    for row in rows:
        if row["mode"] == "unknown sizes":
            continue
        title = row["mode"] + (", training" if row["training"] else "")
        groups.setdefault(title, {}).setdefault(row["method"], []).append(row)
    figure = figures.Figure(figsize=(14, 4.2 * len(groups) + 0.8), layout="constrained")
    panels = figure.subplots(len(groups), 3, squeeze=False)
    legend = {}
    for axes_row, (title, methods) in zip(panels, groups.items(), strict=True):
        for axes, (key, label) in zip(axes_row, _LABELS.items(), strict=True):
            for name, points in methods.items():
                points = sorted((p for p in points if p[key]), key=lambda p: p["positions"])
                if not points:
                    continue
                x = [point["positions"] for point in points]
                y = [point[key] / _UNITS[key] for point in points]
                (legend[name],) = axes.plot(x, y, marker="o", label=name, **_LINES.get(name, {}))
                if name == "regular":
                    low, high = PAPER_SAVINGS[key]
                    bands = [[(1 - saving) * value for value in y] for saving in (high, low)]
                    band = axes.fill_between(x, *bands, color="0.85", label="paper's saving")
                    legend["paper's saving"] = band
            if not axes.get_lines():
                axes.remove()
                continue
            axes.set(xscale="log", yscale="log", xlabel="positions", ylabel=label, title=title)
            axes.minorticks_off()
            sizes = sorted({row["positions"] for points in methods.values() for row in points})
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.grid(alpha=0.3)
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=7)
    return figure

r"""Cost and use of all methods in one table and one plot, from the files of their runs.

    python -m benchmarks.rivals_table            # prints the table, draws docs/rivals.png

The files, in `benchmarks/results`: `rivals-use.json` of `python -m benchmarks.use`, and of each
engine `ENGINE-cpu-rivals.json` of `python -m benchmarks --sizes 97x97 --json FILE`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import table
from keras_fsa.arguments import optional_import

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLOT = ROOT / "docs" / "rivals.png"
ENGINES = {"torch": "torch", "jax": "JAX", "tensorflow": "TensorFlow"}
# In the order of the table; ours first.
LABELS = {
    "dot_product": "frequency, dot product",
    "linear_softmax": "frequency, linear softmax",
    "relu_linear": "frequency, ReLU linear",
    "dense": "the authors' dense basis",
    "regular": "regular self-attention",
    "fused": "the same, fused",
    "criss_cross": "criss-cross (CCNet), R = 2",
    "apnb": "APNB",
    "ema": "EMA",
    "efficient": "efficient attention",
    "relu_linear_positions": "ReLU linear (EfficientViT)",
    "focused": "focused linear (FLatten)",
    "agent": "agent attention",
    "spatial_reduction": "spatial reduction (SegFormer)",
    "low_resolution": "low resolution (LRFormer)",
    "global_filter": "global filter (GFNet)",
    "external": "external attention",
    "aspp": "ASPP (DeepLabV3+)",
    "pyramid_pooling": "pyramid pooling (PSPNet)",
    "none": "nothing in its place",
    "copy": "a copy of the map",
}
OURS = ("dot_product", "linear_softmax", "relu_linear")
# The same mathematics, computed otherwise: trained once.
SAME_USE = {"dense": "dot_product"}


def _costs(result):
    mode = "eager" if result["backend"] == "torch" else "jit"
    rows = (row for row in result["rows"] if row["mode"] == mode and not row["training"])
    return {row["method"]: row for row in rows}


def _scores(use, key):
    """Per method, the values of all seeds."""
    found: dict[str, list] = {}
    for run in use["runs"]:
        value = run["context"] if key == "context" else run["iou"][key]
        found.setdefault(run["method"], []).append(value)
    return found


def _number(value, unit):
    return "" if value is None else f"{value / unit:.3g}"


def _score(values):
    if not values:
        return ""
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def markdown(use: dict, costs: list[dict]) -> str:
    """The joined table.

    Args:
        use: what `benchmarks.use` wrote.
        costs: what `benchmarks` wrote, for each engine one. Memory is that of the first.
    """
    context, mean = _scores(use, "context"), _scores(use, "mean")
    engines = {result["backend"]: _costs(result) for result in costs}
    lines = []
    for name, label in LABELS.items():
        rows = [engine.get(name, {}) for engine in engines.values()]
        if name not in context and not any(rows):
            continue
        flops = next((row["flops"] for row in rows if row.get("flops") is not None), None)
        cells = [f"**{label}**" if name in OURS else label]
        cells += [_number(row.get("least"), 1e-3) for row in rows]
        cells += [_number(rows[0].get("memory"), 2**20), _number(flops, 1e9)]
        used = SAME_USE.get(name, name)
        cells += [_score(context.get(used)), _score(mean.get(used)), len(context.get(used, ()))]
        lines.append(cells)
    names = [ENGINES[engine] for engine in engines]
    header = ["", *(f"{name}, ms" for name in names), f"{names[0]}, MiB", "GFLOP"]
    header += ["IoU, inbound and outbound", "mean IoU", "seeds"]
    return table(header, lines)


def plot(use: dict, cost: dict) -> Any:
    """Use against cost: the IoU of the context classes over milliseconds of one engine.

    Returns:
        A matplotlib figure. Its line: the IoU without any attention.
    """
    figures = optional_import("matplotlib.figure", "tools")
    figure = figures.Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    context, rows = _scores(use, "context"), _costs(cost)
    for name, label in LABELS.items():
        values = context.get(SAME_USE.get(name, name))
        if name == "none" or not values or not rows.get(name, {}).get("least"):
            continue
        x, y = 1e3 * rows[name]["least"], float(np.mean(values))
        ours = name in OURS
        axes.errorbar(
            [x],
            [y],
            yerr=[[y - min(values)], [max(values) - y]],
            marker="o" if ours else "s",
            markersize=8 if ours else 5,
            color="#0072b2" if ours else "0.35",
            label=label,
        )
        axes.annotate(
            label,
            (x, y),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=7.5,
            fontweight="bold" if ours else "normal",
            color="#0072b2" if ours else "black",
        )
    if "none" in context:
        axes.axhline(float(np.mean(context["none"])), color="0.6", linestyle=":", label="nothing")
    engine = ENGINES[cost["backend"]]
    axes.set(
        xscale="log",
        xlabel=f"milliseconds on a map of 97 x 97 x 512, {engine}, one thread",
        ylabel="IoU of the two classes that need context",
    )
    axes.grid(alpha=0.3)
    return figure


def read(folder: Path = RESULTS) -> tuple[dict, list[dict]]:
    """What the files of a folder hold of use, and of cost on each engine that has been measured."""
    costs = [folder / f"{engine}-cpu-rivals.json" for engine in ENGINES]
    use = json.loads((folder / "rivals-use.json").read_text())
    return use, [json.loads(cost.read_text()) for cost in costs if cost.exists()]


def section(folder: Path = RESULTS) -> str:
    """The table, and how it was made."""
    use, costs = read(folder)
    versions = {
        name: version for result in (use, *costs) for name, version in result["versions"].items()
    }
    dates = sorted({result["date"][:10] for result in (*use["runs"], *costs)})
    first = costs[0]
    made = [
        f"{dates[0]} to {dates[-1]}, {first['device']['name']}, {first['threads']['cpus']} core",
        f"{first['setting']['clock']}, least of at least three rounds",
        f"trained on {ENGINES[use['backend']]}",
        ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    ]
    return f"{markdown(use, costs)}\n\n{'; '.join(made)}."


def main(arguments=None):
    """Print the section and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--plot", type=Path, default=PLOT, metavar="FILE")
    options = parser.parse_args(arguments)
    print(section(options.results))
    use, costs = read(options.results)
    plot(use, costs[0]).savefig(options.plot, dpi=90)


if __name__ == "__main__":
    main()

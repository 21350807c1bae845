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
    return "" if value is None else f"{float(f'{value / unit:.3g}'):g}"


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
        if use["runs"]:
            cells += [_score(context.get(used)), _score(mean.get(used))]
            cells.append(len(context.get(used, ())) or "")
        lines.append(cells)
    names = [ENGINES[engine] for engine in engines]
    header = ["", *(f"{name}, ms" for name in names), f"{names[0]}, MiB", "GFLOP"]
    if use["runs"]:
        header += ["IoU, inbound and outbound", "mean IoU", "seeds"]
    return table(header, lines)


def plot(use: dict, cost: dict) -> Any:
    """Use against cost: the IoU of the context classes over milliseconds of one engine.

    Returns:
        A matplotlib figure. Its line: the IoU without any attention.
    """
    figures = optional_import("matplotlib.figure", "tools")
    figure = figures.Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    context, rows = _scores(use, "context"), _costs(cost)
    trained = [name for name in LABELS if name in rows and SAME_USE.get(name, name) in context]
    trained.sort(key=lambda name: rows[name]["least"])
    for number, name in enumerate(trained, 1):
        values = context[SAME_USE.get(name, name)]
        x, y = 1e3 * rows[name]["least"], float(np.mean(values))
        color = "#0072b2" if name in OURS else "0.35"
        axes.errorbar(
            [x],
            [y],
            yerr=[[y - min(values)], [max(values) - y]],
            marker="o",
            markersize=13,
            color=color,
            alpha=0.75,
            linestyle="",
            label=f"{number}  {LABELS[name]}",
        )
        axes.annotate(str(number), (x, y), color="white", size=8, ha="center", va="center")
    if "none" in context:
        axes.axhline(float(np.mean(context["none"])), color="0.6", linestyle=":", label="nothing")
    engine = ENGINES[cost["backend"]]
    axes.set(
        xscale="log",
        xlabel=f"milliseconds on a map of 97 x 97 x 512, {engine}, one thread",
        ylabel="IoU of the two classes that need context",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8, markerscale=0.5)
    return figure


def read(folder: Path = RESULTS) -> tuple[dict, list[dict]]:
    """What the files of a folder hold of use, and of cost on each engine that has been measured."""
    costs = [folder / f"{engine}-cpu-rivals.json" for engine in ENGINES]
    file = folder / "rivals-use.json"
    use = json.loads(file.read_text()) if file.exists() else {"versions": {}, "runs": []}
    return use, [json.loads(cost.read_text()) for cost in costs if cost.exists()]


def section(folder: Path = RESULTS) -> str:
    """The table, and how it was made."""
    use, costs = read(folder)
    versions = {
        name: version for result in (use, *costs) for name, version in result["versions"].items()
    }
    dates = sorted({result["date"][:10] for result in (*use["runs"], *costs)})
    days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    first = costs[0]
    made = [
        f"{days}, {first['device']['name']}, {first['threads']['cpus']} core",
        f"{first['setting']['clock']}, least of at least three rounds",
        *([f"trained on {ENGINES[use['backend']]}"] if use["runs"] else []),
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

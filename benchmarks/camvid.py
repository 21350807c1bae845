r"""The CamVid proof: the recipe of `examples/train_camvid.py`, with one thing changed in each run.

    python -m benchmarks.camvid --list
    python -m benchmarks.camvid --data-dir CamVid --run frequency --seed 0

A run takes hours of a core, so the matrix is filled over time: each run is a command of its own,
which goes on where it was stopped. At its end the best network by validation is scored, and
benchmarks/results/camvid/NAME_seedN.json is written; `python -m benchmarks.results` draws the
tables of those that there are. `--score` scores the best network of a run that has not ended, and
the file says so. Which questions the runs are to answer is written in docs/experiments.md.

    OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 \
        python -m benchmarks.camvid --time

measures the CPU time of a training step of each run that there is, on random images: by the clock,
runs that share a machine with others cannot tell.
"""

import argparse
import csv
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import scoring
from benchmarks.measuring import least_times
from benchmarks.positions import Positioned
from examples.train_camvid import RECIPE
from keras_fsa.backbones.features import build_backbone
from keras_fsa.commands.benchmark import peak_of_process
from keras_fsa.commands.recipe import train_recipe
from keras_fsa.datasets import describe, load
from keras_fsa.inference import class_map
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.layers.resize_like import ResizeLike
from keras_fsa.models.trained import load_keras_file
from keras_fsa.training.loop import build_loss, build_model, build_optimizer

RESULTS = Path(__file__).parent / "results/camvid"
SEEDS = (0, 1, 2)
STAGES = ("stage3", "stage4", "stage5")


@dataclass(frozen=True)
class Run:
    """What a run changes in the recipe."""

    title: str
    recipe: dict[str, Any] = field(default_factory=dict)
    """Settings of the recipe."""
    network: Callable[[], dict[str, Any]] = dict
    """Makes arguments of `FsaNet`."""
    share: float = 1.0
    """Of the training images."""
    gain: float = 0.0
    """What the attention's gain starts at."""
    start: str = ""
    """A run whose best network, of the same seed, gives the weights to start from."""


def rival(name):
    """A method of the benchmark in the place of the attention."""

    def network():
        from benchmarks.methods import METHODS

        return {"attention": METHODS[name](RECIPE.frequencies, residual="gain")}

    return network


def trained_backbone(stages):
    """The recipe's backbone with ImageNet's weights, from images to these stages."""
    return build_backbone(RECIPE.backbone, (None, None, 3), 16, "float32", "imagenet", stages)


def with_backbone(backbone, output_stride):
    """Arguments of `FsaNet` for what was made of that backbone."""
    return {
        "backbone": backbone,
        "backbone_weights": None,
        "normalization": "efficientnet_lite",
        "output_stride": output_stride,
    }


def cut(last):
    """The backbone up to a stage, whose map stands for that of each later one, too."""

    def network():
        whole = trained_backbone(STAGES)
        shift = STAGES.index("stage5") - STAGES.index(last)
        kept = [STAGES[max(place - shift, 0)] for place in range(len(STAGES))]
        features = {name: whole.output[stage] for name, stage in zip(STAGES, kept, strict=True)}
        output_stride = {"stage4": 16, "stage3": 8}[last]
        return with_backbone(keras.Model(whole.input, features, name="cut"), output_stride)

    return network


def doubled(low_level):
    """The backbone behind a doubling of the image."""

    def network():
        backbone = trained_backbone((low_level, "stage4", "stage5"))
        images = keras.Input((None, None, 3))
        # Keras' bilinear upsampling takes no unknown sizes under TensorFlow.
        larger = ResizeLike()([images, keras.layers.UpSampling2D(2)(images)])
        return with_backbone(keras.Model(images, backbone(larger), name="doubled"), None)

    return network


def positioned(affinity: str | None = None):
    """A learned map of positions in the attention's place, or before frequency attention."""

    def network():
        recurrence, frequencies = RECIPE.recurrence, RECIPE.frequencies
        layer = affinity and FrequencySelfAttention(frequencies, affinity, recurrence)
        return {"attention": Positioned(layer, frequencies)}

    return network


def both(*networks):
    """What several functions change, together."""
    return lambda: {key: value for network in networks for key, value in network().items()}


NONE = {"attention": "none"}
REGULAR = {"attention": "spatial", "affinity": "softmax"}
LINEAR_SOFTMAX = {"affinity": "linear_softmax"}
SHORT = {"steps": 460}
DOUBLED_LARGER = {
    "low_level": "stage2",
    "crop": (240, 320),
    "scales": (0.75, 1.25),
    "warmup_steps": 23,
    "learning_rate": 3e-4,
}
# Poles count three times, signs twice; the order is that of the classes.
POLES_AND_SIGNS = (1, 1, 3, 1, 1, 1, 2, 1, 1, 1, 1)
# The map of 360 x 480 pixels at output stride 16.
ALL_FREQUENCIES = (23, 30)
ATTENTIONS: dict[str, tuple[str, dict]] = {
    "none": ("no attention", NONE),
    "regular": ("regular attention", REGULAR),
    "frequency": ("frequency attention", {}),
    "linear_softmax": ("frequency attention, linear softmax", LINEAR_SOFTMAX),
}
FEW = ("none", "frequency", "linear_softmax")
WITH_GAIN = ("regular", "frequency", "linear_softmax")


def each(
    name: str,
    title: str,
    settings: dict[str, Any],
    kinds: Iterable[str] = ATTENTIONS,
    **changes: Any,
) -> dict[str, Run]:
    """A run for each kind of attention, with the same settings and other changes of `Run`."""
    return {
        f"{name}_{kind}": Run(
            f"{title}: {ATTENTIONS[kind][0]}", {**ATTENTIONS[kind][1], **settings}, **changes
        )
        for kind in kinds
    }


RUNS = {
    "none": Run("no attention", NONE),
    "regular": Run("regular attention, softmax", REGULAR),
    "frequency": Run("**frequency attention, dot product**"),
    "linear_softmax": Run("**frequency attention, linear softmax**", LINEAR_SOFTMAX),
    "aspp": Run("ASPP", network=rival("aspp")),
    "apnb": Run("asymmetric pyramid attention", network=rival("apnb")),
    "all_frequencies": Run(
        "all frequencies, dot product", network=lambda: {"frequencies": ALL_FREQUENCIES}
    ),
    "stage2": Run("frequency attention, dot product; joined with stage 2", {"low_level": "stage2"}),
    "skips": Run(
        "frequency attention, dot product; joined with stages 3, 2 and 1",
        {"low_level": ("stage3", "stage2", "stage1")},
    ),
    "doubled": Run(
        "frequency attention, dot product; joined with stage 2, images at twice their size",
        # As many pixels enter the backbone as in the other runs.
        {"low_level": "stage2", "crop": (180, 240)},
        doubled("stage2"),
    ),
    "doubled_start": Run(
        "frequency attention, dot product; joined with stage 2, images at twice their size, five "
        "more epochs from the trained network",
        {**DOUBLED_LARGER, "steps": 230},
        doubled("stage2"),
        start="stage2",
    ),
    "doubled_more": Run(
        "frequency attention, dot product; joined with stage 2, images at twice their size, ten "
        "more epochs from the trained network",
        {**DOUBLED_LARGER, "steps": 230},
        doubled("stage2"),
        start="doubled_start",
    ),
    "doubled_weights": Run(
        "frequency attention, dot product; joined with stage 2, images at twice their size, ten "
        "more epochs from the trained network, poles and signs weighted in the last five",
        {**DOUBLED_LARGER, "steps": 230, "class_weights": POLES_AND_SIGNS},
        doubled("stage2"),
        start="doubled_start",
    ),
    **each("cut", "cut after stage 4", {}, network=cut("stage4")),
    **each("cut10", "cut after stage 4, 10 epochs", SHORT, network=cut("stage4")),
    **each("cut3", "cut after stage 3, 10 epochs", SHORT, network=cut("stage3")),
    **each(
        "cut3_gain",
        "cut after stage 3, 10 epochs, initial gain 1",
        SHORT,
        WITH_GAIN,
        network=cut("stage3"),
        gain=1.0,
    ),
    "cut3_gain_aspp": Run(
        "cut after stage 3, 10 epochs, initial gain 1: ASPP",
        SHORT,
        both(cut("stage3"), rival("aspp")),
        gain=1.0,
    ),
    "cut3_position": Run(
        "cut after stage 3, 10 epochs: a map of positions",
        SHORT,
        both(cut("stage3"), positioned()),
    ),
    "cut3_gain_position": Run(
        "cut after stage 3, 10 epochs, initial gain 1: frequency attention, linear softmax, after "
        "a map of positions",
        SHORT,
        both(cut("stage3"), positioned("linear_softmax")),
        gain=1.0,
    ),
    **each("few10", "10 % of the images, 460 steps", SHORT, FEW, share=0.1),
    **each("few25", "25 % of the images, 460 steps", SHORT, FEW, share=0.25),
}


def recipe_of(run: Run, seed: int, data_dir: str, output: Path):
    """The recipe of a run."""
    return dataclasses.replace(
        RECIPE, data_dir=data_dir, output=str(output), seed=seed, **run.recipe
    )


def build(run: Run, recipe, num_classes: int):
    """The network of a run, as its training begins."""
    model = build_model(recipe, num_classes, **run.network())
    if run.start:
        trained = Path(recipe.output).with_name(f"{run.start}_seed{recipe.seed}")
        model.set_weights(open_model(trained / "best.keras").get_weights())
    attention = model.attention_layer()
    if attention is not None and run.gain:
        attention.gain.assign(run.gain)
    return model


def train(run: Run, recipe) -> None:
    """Train, or go on."""

    def choose(examples):
        # Spread evenly over the drives.
        return examples[:: round(1 / run.share)]

    train_recipe(recipe, functools.partial(build, run), choose)


def step_seconds(run: Run, rounds: int = 3) -> float:
    """Least CPU seconds of a training step, its network built and compiled before."""
    recipe = recipe_of(run, 0, "none", Path("none"))
    names = describe(recipe.dataset).class_names
    # Any weights take the same time.
    model = build(dataclasses.replace(run, start=""), recipe, len(names))
    model.compile(build_optimizer(recipe), build_loss(recipe))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (recipe.batch, *recipe.crop, 3)).astype("uint8")
    masks = rng.integers(0, len(names), (recipe.batch, *recipe.crop)).astype("int32")

    def step():
        model.train_on_batch(images, masks)

    step()
    return least_times(step, rounds)[1]


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of a training's history; none where it has not begun."""
    path = folder / "history.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def open_model(path: Path) -> keras.Model:
    """A trained network, the layers of the rivals known."""
    from benchmarks import methods

    known = {
        name: kind
        for module in (methods, getattr(methods, "rivals", methods))
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, keras.layers.Layer)
    }
    with keras.saving.custom_object_scope(known):
        return load_keras_file(path)


def score(name: str, recipe, memory: int | None, command: str) -> dict[str, Any]:
    """Score the best network of a run: what its result file holds."""
    folder = Path(recipe.output)
    rows = rows_of(folder)
    model = open_model(folder / "best.keras")
    best = json.loads((folder / "best.json").read_text())["val_mean_iou"]
    validations = {
        int(row["step"]): float(row["val_mean_iou"]) for row in rows if row.get("val_mean_iou")
    }
    step = min(validations, key=lambda step: abs(validations[step] - best))
    examples = load("camvid", "val", recipe.data_dir)
    names = describe("camvid").class_names
    scores = scoring.score(lambda image: class_map(model, image), examples, names)
    settings = dataclasses.asdict(recipe)
    for own in ("data_dir", "manual_dir", "output"):
        del settings[own]
    return {
        "name": name,
        "dataset": "camvid",
        "split": "val",
        **scoring.circumstances(command),
        "seed": recipe.seed,
        "settings": {**settings, "share_of_images": RUNS[name].share},
        "steps": recipe.steps,
        "steps_done": int(rows[-1]["step"]),
        "step": step,
        "finished": int(rows[-1]["step"]) >= recipe.steps,
        "parameters": model.count_params(),
        "scores": scores,
        "validations": validations,
        "memory": memory,
    }


def table(runs: dict[str, Any], results: Path, cell: Callable[[dict], str]) -> str:
    """Which runs there are: one line each, with what `cell` makes of each seed's result."""
    width = max(map(len, runs)) + 1
    lines = [f"{'run':{width}}" + "".join(f"   seed {seed}" for seed in SEEDS)]
    for name, run in runs.items():
        paths = [results / f"{name}_seed{seed}.json" for seed in SEEDS]
        cells = [cell(json.loads(path.read_text())) if path.exists() else "-" for path in paths]
        title = run.title.replace("*", "")
        lines.append(f"{name:{width}}" + "".join(f"{cell:>9}" for cell in cells) + f"   {title}")
    return "\n".join(lines)


def _mean_iou(result):
    return f"{result['scores']['mean_iou']:.3f}" + (" " if result["finished"] else "*")


def flags(description: str, runs: Iterable[str], results: Path) -> argparse.ArgumentParser:
    """The flags of a command that trains and scores one of several runs."""
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    parser.add_argument("--list", action="store_true", help="say which runs there are")
    parser.add_argument("--run", choices=runs, metavar="NAME", help="a name of --list")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", help="folder of CamVid")
    parser.add_argument("--output", type=Path, default=Path("outputs", results.name))
    parser.add_argument("--results", type=Path, default=results)
    return parser


def main(arguments=None):
    """Train and score one run, or say which there are."""
    parser = flags(__doc__, RUNS, RESULTS)
    parser.add_argument("--time", action="store_true", help="of a step of each run that there is")
    parser.add_argument("--score", action="store_true", help="no training: score what there is")
    options = parser.parse_args(arguments)
    if options.list:
        print(table(RUNS, options.results, _mean_iou), "\n* not at its end")
        return
    if options.time:
        there = [n for n in RUNS if any(options.results.rglob(f"{n}_seed*.json"))]
        seconds = {name: step_seconds(RUNS[name]) for name in there}
        command = f"KERAS_BACKEND={keras.backend.backend()} python -m benchmarks.camvid --time"
        found = {**scoring.circumstances(command), "seconds": seconds}
        scoring.write(options.results / "steps.json", found)
        return
    if not options.run or not options.data_dir:
        parser.error("give --run and --data-dir, or --list, or --time")
    run = RUNS[options.run]
    name = f"{options.run}_seed{options.seed}"
    recipe = recipe_of(run, options.seed, options.data_dir, options.output / name)
    new = not rows_of(options.output / name)
    if not options.score:
        train(run, recipe)
    # Of a whole training in this process.
    whole = new and not options.score
    memory = peak_of_process() if whole else None
    command = (
        f"KERAS_BACKEND={keras.backend.backend()} python -m benchmarks.camvid --data-dir CamVid "
        f"--run {options.run} --seed {options.seed}"
    )
    result = score(options.run, recipe, memory, command)
    scoring.write(options.results / f"{name}.json", result)
    print(f"mIoU {result['scores']['mean_iou']:.4f}")


if __name__ == "__main__":
    main()

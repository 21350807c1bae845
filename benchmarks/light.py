r"""Experiment (f): real images in a light that varies over them, which the network is to find.

    python -m benchmarks.light --list
    python -m benchmarks.light --data-dir CamVid --run linear_softmax --seed 0

A street of CamVid is seen in a light of its own, smooth and coloured: `draw_light`. What is dark or
reddish here, may be so, or be lit so; only the rest of the image tells. The network is an FsaNet on
the backbone of `cut3_...` in `benchmarks.camvid`, whose features see 67 of 360 x 480 pixels, with
three maps as answers: the natural logarithm of the light's red, green and blue. The loss is their
mean absolute error. No mask is read.

A run is a command of its own, which goes on where it was stopped, and writes
benchmarks/results/light/NAME_seedN.json. Its figures are means over the pixels of the validation
images, each in a light that is the same for all runs: the absolute error of the logarithm (0.1 is a
light 10 % wrong), and the angle between the colours of the light and of the answer.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_fsa
from benchmarks import camvid, scoring
from keras_fsa.datasets import load
from keras_fsa.training.batch_norm import use_moving_statistics
from keras_fsa.training.callbacks import (
    Checkpoint,
    History,
    Report,
    StopAtNonFinite,
    save_model,
)
from keras_fsa.training.optimizer import cosine_decay

RESULTS = Path(__file__).parent / "results/light"
DARKEST = np.log(4.0)
"""The least light is a quarter of the most."""
ORDERS = 3
"""Number of frequencies of the light along each axis: up to one wave over the image."""
GAMMA = 2.2
STEPS, STEPS_PER_EPOCH, BATCH = 690, 46, 4
LEARNING_RATE, WARMUP_STEPS = 1e-3, 46


def draw_light(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    r"""The natural logarithm of a light, float32 `(height, width, 3)`, between `-DARKEST` and 0.

    `-DARKEST * sigmoid(1.5 b + 0.75 c)` with a map `b` of the brightness and one of each colour,
    `c`. Each is a sum of cosines, `ORDERS` along each axis, of normal amplitudes whose deviation
    falls as `1 / (1 + u + v)`.
    """
    orders = np.arange(ORDERS)
    amplitudes = rng.normal(size=(ORDERS, ORDERS, 4)) / (1 + orders[:, None] + orders)[..., None]
    waves = [
        np.cos(np.pi * np.outer((np.arange(size) + 0.5) / size, orders)) for size in (height, width)
    ]
    maps = np.einsum("yu,xv,uvc->yxc", *waves, amplitudes)
    values = 1.5 * maps[..., :1] + 0.75 * maps[..., 1:]
    return (-DARKEST / (1 + np.exp(-values))).astype("float32")


def lit(image: np.ndarray, light: np.ndarray) -> np.ndarray:
    """An 8-bit image as it would be in a light given by its logarithm."""
    return np.round(image * np.exp(light / GAMMA)).astype("uint8")


@dataclass(frozen=True)
class Run:
    """A network that is compared."""

    title: str
    network: Callable[[], dict[str, Any]]
    """Makes arguments of `FsaNet`."""
    gain: float = 0.0
    """What the attention's gain starts at."""
    moving: bool = False
    """Whether batch norm uses its moving statistics in training."""
    steps: int = STEPS


def _attention(title: str, gain: float = 0.0, frequencies: int = 8, **arguments: Any) -> Run:
    return Run(title, lambda: {"recurrence": 2, "frequencies": frequencies, **arguments}, gain)


def _linear_softmax(frequencies: int, gain: float) -> Run:
    title = f"frequency attention, linear softmax, k = {frequencies}"
    if gain:
        title += f", initial gain {gain:g}"
    return _attention(f"**{title}**", gain, frequencies, affinity="linear_softmax")


NETWORKS = {
    "none": _attention("no attention", attention=None),
    "regular": _attention("regular attention", attention="spatial", affinity="softmax"),
    "frequency": _attention("**frequency attention, dot product, k = 8**", affinity="dot_product"),
    "linear_softmax": _linear_softmax(8, 0.0),
    "three": _linear_softmax(3, 0.0),
    "mean": _linear_softmax(1, 0.0),
    "aspp": Run("ASPP", camvid.rival("aspp")),
    "gain_linear_softmax": _linear_softmax(8, 1.0),
    "gain_three": _linear_softmax(3, 1.0),
    "gain_mean": _linear_softmax(1, 1.0),
    "gain_aspp": Run("ASPP, initial gain 1", camvid.rival("aspp"), 1.0),
}
RUNS = (
    NETWORKS
    | {f"moving_{name}": dataclasses.replace(run, moving=True) for name, run in NETWORKS.items()}
    | {f"long_{name}": dataclasses.replace(run, steps=2 * STEPS) for name, run in NETWORKS.items()}
)


def build(run: Run) -> keras_fsa.FsaNet:
    """The network of a run, as its training begins."""
    model = keras_fsa.FsaNet(
        3,
        **camvid.cut("stage3")(),
        **run.network(),
        head_channels=128,
        auxiliary_loss_weight=0,
    )
    if run.gain:
        model.attention_layer().gain.assign(run.gain)
    use_moving_statistics(model, run.moving)
    return model


def batches(images: list[np.ndarray], seed: int, step: int) -> Iterator[tuple]:
    """Images and their light from a step on, without end; half of the images are mirrored."""
    while True:
        rng = np.random.default_rng([seed, step])
        pairs = []
        for i in rng.choice(len(images), BATCH, replace=False):
            image = images[i][:, :: rng.choice([1, -1])]
            light = draw_light(rng, *image.shape[:2])
            pairs.append((lit(image, light), light))
        yield tuple(map(np.stack, zip(*pairs, strict=True)))
        step += 1


def train(
    model: keras.Model, images: list[np.ndarray], seed: int, steps: int, folder: Path
) -> None:
    """Train, or go on."""
    rate = cosine_decay(LEARNING_RATE, 1e-5, steps, WARMUP_STEPS)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), "mean_absolute_error", [])
    history = History(folder / "history.csv")
    checkpoint = Checkpoint(folder / "checkpoint.npz", {"seed": seed, "steps": steps}, history)
    step = checkpoint.restore(model)
    model.fit(
        batches(images, seed, step),
        steps_per_epoch=STEPS_PER_EPOCH,
        initial_epoch=step // STEPS_PER_EPOCH,
        epochs=steps // STEPS_PER_EPOCH,
        callbacks=[StopAtNonFinite(step), history, Report(history, steps), checkpoint],
        shuffle=False,
        verbose=0,
    )


def score(answer: Callable, images: list[np.ndarray]) -> dict[str, float]:
    """Mean errors of a function from an image to the logarithm of its light."""
    errors, angles = [], []
    for i, image in enumerate(images):
        light = draw_light(np.random.default_rng(i), *image.shape[:2])
        found = answer(lit(image, light))
        errors.append(np.abs(found - light).mean())
        angles.append(np.degrees(angle(np.exp(light), np.exp(found))).mean())
    return {"error": float(np.mean(errors)), "angle": float(np.mean(angles)), "images": len(images)}


def angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angles between vectors along the last axis, in radians."""
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.arccos(np.minimum((first * second).sum(-1) / lengths, 1))


def main(arguments=None):
    """Train and score one run, or say which there are."""
    parser = camvid.flags(__doc__, RUNS, RESULTS)
    options = parser.parse_args(arguments)
    if options.list:
        print(camvid.table(RUNS, options.results, lambda found: f"{found['scores']['error']:.4f}"))
        return
    if not options.run or not options.data_dir:
        parser.error("give --run and --data-dir, or --list")
    training, validation = (
        [image for image, _ in load("camvid", split, options.data_dir)]
        for split in ("train", "val")
    )
    name = f"{options.run}_seed{options.seed}"
    keras.utils.set_random_seed(options.seed)
    run = RUNS[options.run]
    model = build(run)
    train(model, training, options.seed, run.steps, options.output / name)
    save_model(model, options.output / name / "model.keras")

    def answer(image):
        return keras.ops.convert_to_numpy(model(image[None], training=False))[0]

    command = (
        f"KERAS_BACKEND={keras.backend.backend()} python -m benchmarks.light --data-dir CamVid "
        f"--run {options.run} --seed {options.seed}"
    )
    result = {
        "name": options.run,
        **scoring.circumstances(command),
        "seed": options.seed,
        "steps": run.steps,
        "batch": BATCH,
        "parameters": model.count_params(),
        "scores": score(answer, validation),
        "scores_of_mean": score(lambda image: np.full(image.shape, -DARKEST / 2), validation),
    }
    scoring.write(options.results / f"{name}.json", result)


if __name__ == "__main__":
    main()

r"""What exact tiles are for: a drawn coast whose lamp no window sees together with a boat.

    KERAS_BACKEND=torch python -m benchmarks.coast --seeds 0 1 2 --folder outputs/coast

For each seed a network is trained on small coasts, whole. Then it is shown a coast of 2048 x 8192
that it has not seen, under a green lamp and under a red one: whole, in exact tiles, in windows side
by side, and in windows that overlap by half and blend. Memory is the peak beyond what there was
before, the result included (Linux only); seconds are CPU time of a coast. The scores are the IoU of
the lamp's and the boats' classes over both coasts.

What is finished stays in the folder and is not done again.
"""

import argparse
import ctypes
import datetime as dt
import itertools
import json
import time
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_fsa
from keras_fsa.datasets.signal_coast import draw_coast
from keras_fsa.datasets.signal_harbor import CLASSES, PALETTE
from keras_fsa.files import whole_file
from keras_fsa.inference import class_map, probabilities
from keras_fsa.large import halo, segment
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.losses import CrossEntropy
from keras_fsa.metrics import confusion_matrix, confusion_scores
from keras_fsa.visualize import colour_mask, plot_seams
from keras_fsa.visualize.figure import finish, new_figure

SIZE = 2048, 8192
SIGNALS = "green", "red"
METHODS = "exact tiles", "plain windows", "whole image", "Hann windows"
SCORED = "green signal", "red signal", "inbound", "outbound"
# First number of the seeds of coasts, so that none to train on is one to test on.
TRAIN, TEST = 1, 2
SMALL = *4 * (((128, 256), 3),), ((256, 768), 1)
"""Sizes of the coasts to train on, in turn, and how many of them make a batch."""


def windows(side):
    """Arguments of `keras_fsa.inference` for the two kinds of windows."""
    return {
        "plain windows": {"window": side, "stride": side},
        "Hann windows": {"window": side, "stride": side // 2, "blend": "hann"},
    }


def build():
    """A network of stride 8 whose convolutions see 39 pixels far."""

    def block(x, filters, stride):
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    image = x = keras.Input((None, None, 3))
    for filters in (16, 24, 32):
        x = block(x, filters, 2)
    return keras_fsa.FsaNet(
        len(CLASSES),
        keras.Model(image, {"stage5": block(x, 48, 1)}),
        attention=FrequencySelfAttention(8, "linear_softmax", residual="batch_norm"),
        head_channels=32,
        normalization="imagenet",
        auxiliary_loss_weight=0,
    )


def train(seed, steps, path):
    """Train on small coasts, each under a green lamp and under a red one."""
    start = time.process_time()
    keras.utils.set_random_seed(seed)
    model = build()
    weights = [4 if name in ("inbound", "outbound") else 1 for name in CLASSES]
    rate = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    model.compile(keras.optimizers.Adam(rate), CrossEntropy(weights), metrics=[])
    for step in range(steps):
        size, count = SMALL[step % len(SMALL)]
        coasts = [
            draw_coast(np.random.default_rng((TRAIN, seed, step, i)), size, signal)
            for i, signal in itertools.product(range(count), SIGNALS)
        ]
        images, masks = map(np.stack, zip(*coasts, strict=True))
        loss = model.train_on_batch(images, masks)
        if step % 25 == 0:
            print(f"seed {seed}, step {step}: loss {float(np.ravel(loss)[0]):.3f}", flush=True)
    with whole_file(path) as unfinished:
        model.save(unfinished)
    path.with_suffix(".json").write_text(json.dumps(time.process_time() - start))


def run(method, model, image, tile, window):
    """The classes of an image by one of `METHODS`."""
    if method == "whole image":
        return model.predict_on_batch(image[None])[0].argmax(-1).astype("uint8")
    if method == "exact tiles":
        return segment(model, image, tile=tile, verbose=False)
    return class_map(model, image, **windows(window)[method])


def measure(seed, method, options):
    """One method on both coasts by one network: writes their classes, and JSON beside them."""
    model = None
    for signal in SIGNALS:
        note = options.folder / f"{seed}_{signal}_{method}.json"
        if note.exists():
            continue
        if model is None:
            model = keras.saving.load_model(options.folder / f"{seed}.keras", compile=False)
            model.predict_on_batch(np.zeros((1, 64, 64, 3), "uint8"))
        image = np.load(options.folder / f"{signal}_image.npy")
        before = memory(reset=True)
        start, wall = time.process_time(), time.perf_counter()
        classes = run(method, model, image, options.tile, options.window)
        row = {
            "seconds": time.process_time() - start,
            "wall_seconds": time.perf_counter() - wall,
            "memory": memory() - before,
        }
        np.save(note.with_suffix(".npy"), classes)
        note.write_text(json.dumps(row))
        print(f"{method}, seed {seed}, {signal}: {row}", flush=True)


def memory(reset=False):
    """Peak memory of this process since the last reset, GiB; after a reset, what it has."""
    if reset:
        # What was freed but is kept would hide what is taken next.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().split("VmHWM:", 1)[1]
    return int(status.split()[0]) / 2**20  # Linux counts KiB


def compare(seed, method, options):
    """A row of the table: one network and one method on both coasts."""
    confusion, rows, differ = 0, [], []
    for signal in SIGNALS:
        name = options.folder / f"{seed}_{signal}_"
        rows.append(json.loads(Path(f"{name}{method}.json").read_text()))
        mask = np.load(options.folder / f"{signal}_mask.npy")
        whole, classes = (np.load(f"{name}{which}.npy") for which in ("whole image", method))
        confusion = confusion + confusion_matrix(mask, classes, len(CLASSES))
        differ.append(float(np.mean(whole != classes)))
    iou = confusion_scores(confusion)["class_iou"]
    boats = [CLASSES.index(name) for name in SCORED[2:]]
    found = confusion[np.ix_(boats, boats)].sum()
    boats = found / (confusion[boats].sum() + confusion[:, boats].sum() - found)
    row = {
        "seed": seed,
        "method": method,
        **{name: float(iou[CLASSES.index(name)]) for name in SCORED},
        "boats of either kind": float(boats),
        "differs from whole": float(np.mean(differ)),
        **{key: max(row[key] for row in rows) for key in ("seconds", "wall_seconds", "memory")},
    }
    print(json.dumps(row), flush=True)
    return row


def draw_seams(model, path):
    """The error over the distance to the nearest seam, on a smaller coast."""
    image, _ = draw_coast(np.random.default_rng((TEST, 99)), (512, 2048), "red")
    side = 256
    found = {name: probabilities(model, image, **kind) for name, kind in windows(side).items()}
    found["exact tiles"] = segment(model, image, tile=side, output="probabilities", verbose=False)
    seams = [range(0, n + 1, side) for n in image.shape[:2]]
    plot_seams(probabilities(model, image), found, seams, path)


def draw_figure(folder, seed, path):
    """A coast, its mask and what each method makes of it, small, and a part of it in full.

    Windows that give all boats one name are right under one of the lamps: this is the other.
    """

    def missed(signal):
        files = (f"{signal}_mask", f"{seed}_{signal}_plain windows")
        mask, classes = (np.load(folder / f"{file}.npy", mmap_mode="r") for file in files)
        return np.count_nonzero(mask != classes)

    signal = max(SIGNALS, key=missed)
    panels = {"image": f"{signal}_image", "truth": f"{signal}_mask"}
    panels |= {method: f"{seed}_{signal}_{method}" for method in METHODS if method != "whole image"}
    figure = new_figure(11, 6.5)
    axes = figure.subplots(len(panels), 2, width_ratios=(4, 2))
    for (title, file), (left, right) in zip(panels.items(), axes, strict=True):
        array = np.load(folder / f"{file}.npy", mmap_mode="r")
        height, width = array.shape[:2]
        part = array[-height // 6 :, width // 2 : width // 2 + height // 3]
        small = array[::8, ::8]
        if title == "image":
            # The mean of each block of pixels, which a thumbnail needs against moire.
            small = array.reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3)).astype("uint8")
        for axis, shown in ((left, small), (right, part)):
            axis.imshow(shown if title == "image" else colour_mask(shown, PALETTE))
            axis.set_axis_off()
        left.set_title(title, loc="left", fontsize=9)
    finish(figure, path)


def main(arguments=None):
    """Train, measure, draw, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--window", type=int, default=1024, help="at most half the height")
    parser.add_argument("--folder", type=Path, default=Path("outputs/coast"))
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--plots", type=Path, help="folder of seams.png and coast.png")
    options = parser.parse_args(arguments)
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    for signal in SIGNALS:
        files = [folder / f"{signal}_{what}.npy" for what in ("image", "mask")]
        if not files[1].exists():
            coast = draw_coast(np.random.default_rng((TEST, 0)), options.size, signal)
            for file, array in zip(files, coast, strict=True):
                np.save(file, array)
    for seed in options.seeds:
        if not (folder / f"{seed}.json").exists():
            train(seed, options.steps, folder / f"{seed}.keras")
    for which in itertools.product(options.seeds, METHODS):
        measure(*which, options)
    rows = [compare(*which, options) for which in itertools.product(options.seeds, METHODS)]
    model = keras.saving.load_model(folder / f"{options.seeds[0]}.keras", compile=False)
    result = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "backend": keras.backend.backend(),
        "versions": {name: version(name) for name in ("keras", "numpy", keras.backend.backend())},
        "seeds": options.seeds,
        "size": options.size,
        "steps": options.steps,
        "seconds_of_training": [
            json.loads((folder / f"{seed}.json").read_text()) for seed in options.seeds
        ],
        "tile": options.tile,
        "window": options.window,
        "halo": halo(model),
        "parameters": model.count_params(),
        "rows": rows,
    }
    if options.json:
        with whole_file(options.json) as unfinished:
            unfinished.write_text(json.dumps(result, indent=1) + "\n")
    if options.plots:
        draw_seams(model, options.plots / "seams.png")
        draw_figure(folder, options.seeds[0], options.plots / "coast.png")


if __name__ == "__main__":
    main()

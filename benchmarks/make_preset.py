r"""Makes a preset from a trained network: a folder with `model.keras` and its card, `README.md`.

    python -m benchmarks.make_preset --model outputs/camvid/frequency_seed0/best.keras \
        --result benchmarks/results/camvid/frequency_seed0.json --output presets/camvid_frequency

Kernels and matrices are stored in float16, which halves the file; biases, gains and the statistics
of batch norms, which are few, stay as they are. Every engine opens the file with float32 variables.
The command opens it, compares its logits with those of the model, and fails if they differ by more
than a hundredth of their scale. The card is generated from the result file and the data's terms.
A few logits go to tests/golden, for comparison with those of every engine.
"""

import argparse
import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np

from benchmarks.report import table
from keras_fsa.files import whole_file
from keras_fsa.models.presets import PACKAGED
from keras_fsa.models.trained import load_keras_file

GOLDEN = Path(__file__).parent.parent / "tests/golden"
# What a card says besides figures: what the network is for, the data and its terms, its limits.
ABOUT = {
    "signal_harbor": {
        "title": "Signal Harbor",
        "use": "The network of `examples/quickstart.py`, trained for longer. Use it to try out "
        "prediction, export and attention maps ten seconds after installing.",
        "data": "Scenes drawn by `keras_fsa.datasets.signal_harbor`, each seen once, from streams "
        "of random numbers other than the dataset's. Scored on the dataset's test split, which was "
        "used neither for training nor for choosing the model.",
        "terms": "Apache 2.0, like this library.",
        "limits": "It knows drawn harbours of 96 x 128 pixels and nothing else.",
    },
    "camvid": {
        "title": "CamVid",
        "use": "Street scenes in eleven classes, for trying out the library on real images and as "
        "a starting point for training on your own street scenes.",
        "data": "CamVid (G. Brostow et al., Pattern Recognition Letters 30, 2009) in the eleven "
        "classes and splits of the SegNet tutorial, 480 x 360 pixels: 367 training and 101 "
        "validation images. The backbone started from the ImageNet weights of EfficientNet-Lite0, "
        "Apache 2.0.",
        "terms": "The SegNet tutorial distributes its copy of CamVid under CC BY-NC 4.0: not for "
        "commercial use. Assume that the same holds for the weights.",
        "limits": "One city, one camera, daylight. The model was chosen as the best on the same "
        "validation images that the figures are from, so they flatter it a little. Not for "
        "driving. On images of this size attention made no measurable difference "
        "(`docs/results.md`).",
    },
}
# Of networks from before the kernels of an attention were drawn apart.
DRAWN_APART = "2026-11-30T12"
BEGAN_EQUAL = (
    " The queries and keys of its attention began equal, so that like attended to like before "
    "training: a defect of version 0.1.0 (`docs/results.md`)."
)


def halve(source: Path, target: Path) -> None:
    """Copy a `.keras` file with its kernels and matrices in float16, compressed."""
    with (
        zipfile.ZipFile(source) as old,
        whole_file(target) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for item in old.infolist():
            data = old.read(item)
            weights = item.filename.endswith(".h5")
            new.writestr(item.filename, _halved(data) if weights else data)


def _halved(data):
    out = io.BytesIO()
    with h5py.File(io.BytesIO(data)) as old, h5py.File(out, "w") as new:
        new.attrs.update(old.attrs)

        def copy(name, item):
            if isinstance(item, h5py.Group):
                made = new.require_group(name)
            else:
                value = item[()]
                if value.ndim > 1 and value.dtype == "float32":
                    value = value.astype("float16")
                made = new.create_dataset(name, data=value)
            made.attrs.update(item.attrs)

        old.visititems(copy)
    return out.getvalue()


def logits_of_noise(model, side=193) -> np.ndarray:
    """The logits of an image of random pixels, always the same."""
    shape = (1, side, side + 2, model.image_shape[-1])
    images = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    return model.predict(images, verbose=0)[0]


def deviation(one, other) -> float:
    """The largest difference between two models' logits, as a share of the first's largest."""
    expected, found = map(logits_of_noise, (one, other))
    return float(np.abs(expected - found).max() / np.abs(expected).max())


def card(result: dict, size: int, difference: float, note: str = "") -> str:
    """The model card: what a result file says, what `ABOUT` does, and a note on the file."""
    about = ABOUT[result["dataset"]]
    scores, classes = result["scores"], result["scores"]["classes"]
    rows = [[name, *(f"{value:.3f}" for value in row.values())] for name, row in classes.items()]
    means = [f"{scores['mean_iou']:.3f}", f"{scores['mean_boundary_f']:.3f}"]
    figures = table(["class", "IoU", "boundary F1"], [*rows, ["**mean**", *means]])
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    settings = "\n".join(f"- {name}: {value}" for name, value in result["settings"].items())
    note = f" {note}" if note else ""
    limits = about["limits"] + (BEGAN_EQUAL if result["date"] < DRAWN_APART else "")
    whole = (
        ""
        if result["finished"]
        else (f" The training was not at its end: step {result['step']} of {result['steps']}.")
    )
    return f"""# {about["title"]}: {result["name"]}

{about["use"]}

```py
model = keras_fsa.FsaNet.from_preset("PATH")
```

{result["parameters"]:,} parameters, {size / 1e6:.2f} MB: kernels in float16, opened in float32.
Its logits differ from those of the trained network by at most {difference:.1e} of the largest
logit.{note}

## Figures

On the {scores["images"]} images of the split `{result["split"]}`, each whole and in a single pass;
boundary F1 within 3 pixels:

{figures}

## How it was made

    {result["command"]}

Seed {result["seed"]}, {result["date"]}, {versions}.{whole}

{settings}

## Data and terms

{about["data"]}

{about["terms"]}

## Limits

{limits}
"""


def make_preset(model: Path, result: Path, output: Path, note: str = "") -> keras.Model:
    """Write the folder of a preset; the network as its file holds it."""
    figures = json.loads(result.read_text())
    file = output / "model.keras"
    network = load_keras_file(model)
    with tempfile.TemporaryDirectory() as folder:
        whole, halved = Path(folder, "whole.keras"), Path(folder, "halved.keras")
        # Without the optimizer and its state.
        network.save(whole)
        halve(whole, halved)
        made = load_keras_file(halved)
        difference = deviation(network, made)
        if not difference < 0.01:
            raise ValueError(
                "A preset must give the logits of its network. Received: a network whose logits "
                f"change by {difference:.2g} of their scale in float16. Keep the file as it is."
            )
        with whole_file(file) as unfinished:
            shutil.copyfile(halved, unfinished)
    name = output.name if output.parent == PACKAGED else output.as_posix()
    text = card(figures, file.stat().st_size, difference, note).replace("PATH", name)
    with whole_file(output / "README.md") as unfinished:
        unfinished.write_text(text)
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB, logits within {difference:.1e}")
    return made


def main(arguments=None):
    """Make a preset of what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True, help="a trained .keras file")
    parser.add_argument("--result", type=Path, required=True, help="its scores, a JSON file")
    parser.add_argument("--output", type=Path, required=True, help="folder of the preset")
    parser.add_argument("--note", default="", help="what a user of the file must know")
    options = parser.parse_args(arguments)
    made = make_preset(options.model, options.result, options.output, options.note)
    logits = logits_of_noise(made)
    with whole_file(GOLDEN / f"{options.output.name}.npz") as unfinished:
        np.savez_compressed(unfinished, logits=logits[::16, ::16])


if __name__ == "__main__":
    main()

"""FsaNet in each engine and each runtime: time of one image, size of the file, agreement.

    python -m benchmarks.runtimes --model fsanet.keras --images DIR --masks DIR --json table.json

Without --model a network of --backbone with random weights is measured, without --images noise.
Each row has a process of its own, one after the other, with the runtime's own settings, as a user
has it. Times are minima of one image; CPU time beside them is what one thread needs where others
use the machine. Memory is what the process has grown by since before it loaded the file, at its
peak. Agreement is with the model's logits in float32 under TensorFlow: the largest difference over
their largest absolute value, and the share of equal classes, on every second image. With --masks
(of the same names; ids that are no classes do not count) there is the mean IoU, too. int8 is
calibrated with the other images.
"""

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_fsa
from benchmarks import measuring
from benchmarks.__main__ import _size as parse_size
from benchmarks.report import table
from keras_fsa.commands.benchmark import peak_of_process
from keras_fsa.files import whole_file
from keras_fsa.losses import IGNORE_LABEL
from keras_fsa.metrics import confusion_matrix, confusion_scores
from keras_fsa.models.exporting import load_exported

# A row: the backend that runs it, and the file or how the model is compiled.
ROWS = {
    "Keras, torch": ("torch", "model.keras"),
    "Keras, torch, jit_compile": ("torch", "model.keras"),
    "Keras, torch, folded": ("torch", "folded.keras"),
    "Keras, TensorFlow": ("tensorflow", "model.keras"),
    "Keras, TensorFlow, jit_compile": ("tensorflow", "model.keras"),
    "Keras, TensorFlow, folded": ("tensorflow", "folded.keras"),
    "Keras, JAX": ("jax", "model.keras"),
    "Keras, JAX, folded": ("jax", "folded.keras"),
    "SavedModel": ("tensorflow", "saved_model"),
    "ONNX Runtime": ("tensorflow", "model.onnx"),
    "ONNX Runtime, int8": ("tensorflow", "int8.onnx"),
    "OpenVINO": ("tensorflow", "model.xml"),
    "OpenVINO, float32 asked for": ("tensorflow", "model.xml"),
    "OpenVINO, int8": ("tensorflow", "int8.xml"),
    "LiteRT": ("tensorflow", "model.tflite"),
    "LiteRT, int8": ("tensorflow", "int8.tflite"),
}
FORMATS = {"": "tf_saved_model", ".onnx": "onnx", ".xml": "openvino", ".tflite": "litert"}


def prepare(options, folder):
    """Write all files and the images; under TensorFlow."""
    size = options.size
    if options.model:
        model = keras.saving.load_model(options.model, compile=False)
    else:
        keras.utils.set_random_seed(0)
        model = keras_fsa.FsaNet(19, options.backbone)
    if options.images:
        import cv2

        from keras_fsa.images import read_image, read_mask

        files = sorted(Path(options.images).iterdir())[: options.limit]
        images = [cv2.resize(read_image(file), size[::-1]) for file in files]
    else:
        random = np.random.default_rng(0)
        images = [random.integers(0, 256, (*size, 3)).astype("uint8") for _ in range(3)]
    shown, calibration = images[::2], images[1::2]
    np.save(folder / "images.npy", np.stack(shown))
    logits = [model.predict_on_batch(image[None]) for image in shown]
    np.save(folder / "logits.npy", np.concatenate(logits))
    if options.masks:
        masks = [read_mask(Path(options.masks) / f"{file.stem}.png") for file in files[::2]]
        nearest = [
            cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) for mask in masks
        ]
        np.save(folder / "masks.npy", np.stack(nearest))
    folded = keras_fsa.fold_batch_norm(model)
    for name in {name for _, name in ROWS.values()}:
        whole = folded if name.startswith("folded") else model
        ending = Path(name).suffix
        if ending == ".keras":
            whole.save(folder / name)
        else:
            given = calibration if name.startswith("int8") else None
            format = FORMATS[ending]
            whole.export(folder / name, format=format, calibration=given, verbose=False)


def file_size(path):
    """MiB of a file with what belongs to it, or of a folder."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.stem}.*")
    kinds = (path.suffix, ".bin") if path.suffix == ".xml" else (path.suffix,)
    if path.is_dir():
        return sum(file.stat().st_size for file in files if file.is_file()) / 2**20
    return sum(file.stat().st_size for file in files if file.suffix in kinds) / 2**20


def measure(row, folder, rounds):
    """One row, in this process."""
    path = folder / ROWS[row][1]
    images, logits = np.load(folder / "images.npy"), np.load(folder / "logits.npy")
    if path.suffix == ".keras":
        __import__({"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}[ROWS[row][0]])
    before = peak_of_process()
    if path.suffix == ".keras":
        model = keras.saving.load_model(path, compile=False)
        # JAX always compiles.
        model.compile(jit_compile="auto" if "JAX" in row else "jit_compile" in row)
        serve = model.predict_on_batch
    else:
        serve = load_exported(path, runtime_defaults="asked" not in row)
    served = np.concatenate([serve(image[None]) for image in images])
    wall, cpu = measuring.least_times(lambda: serve(images[:1]), rounds)
    peak = peak_of_process()
    scores = {}
    if (folder / "masks.npy").exists():
        masks, classes = np.load(folder / "masks.npy"), served.shape[-1]
        masks[masks >= classes] = IGNORE_LABEL
        confusion = confusion_matrix(masks, served.argmax(-1), classes)
        scores["mean_iou"] = float(confusion_scores(confusion)["mean_iou"])
    return {
        "row": row,
        "ms": 1e3 * wall,
        "cpu_ms": 1e3 * cpu,
        "memory_mib": (peak - before) / 2**20,
        "file_mib": file_size(path),
        "deviation": float(np.abs(served - logits).max() / np.abs(logits).max()),
        "same_classes": float(np.mean(served.argmax(-1) == logits.argmax(-1))),
        **scores,
    }


def markdown(rows):
    """The rows as a table."""
    scored = any("mean_iou" in row for row in rows)
    header = ["", "ms", "CPU ms", "memory, MiB", "file, MiB", "deviation", "equal classes"]
    header += ["mean IoU"] * scored
    lines = []
    for row in rows:
        if "error" in row:
            lines.append([row["row"], row["error"], *[""] * (len(header) - 2)])
            continue
        cells = [f"{row[key]:.0f}" for key in ("ms", "cpu_ms", "memory_mib")]
        cells += [f"{row['file_mib']:.1f}", f"{row['deviation']:.1e}"]
        cells += [f"{100 * row['same_classes']:.2f} %"]
        if scored:
            cells.append(f"{row['mean_iou']:.4f}")
        lines.append([row["row"], *cells])
    return table(header, lines)


def _in_a_process(arguments, backend):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.runtimes", *arguments],
        env={**os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        text=True,
    )
    found = [line for line in done.stdout.splitlines() if line.startswith('{"row"')]
    return json.loads(found[-1]) if found else {"error": f"failed with code {done.returncode}"}


def main(arguments=None):
    """Measure, and print a table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", metavar="FILE", help="a trained .keras file")
    parser.add_argument("--images", metavar="DIR")
    parser.add_argument("--masks", metavar="DIR", help="of --images, as PNG of class ids")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=parse_size, default=(513, 513), metavar="HxW")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS], metavar="ROW")
    parser.add_argument("--json", metavar="FILE", help="and the table beside it, as .md")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.masks and not options.images:
        parser.error("--masks are those of --images, which is missing")
    if options.step:
        row, folder = options.step
        if row == "prepare":
            prepare(options, Path(folder))
        else:
            print(json.dumps(measure(row, Path(folder), options.rounds)))
        return None
    rows = []
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    _, device = measuring.device()
    height, width = options.size
    name = options.backbone
    if options.model:
        path = Path(options.model)
        name = path.parent.name if path.stem == "model" else path.stem
    title = f"{name}, {height}x{width}, minimum of {options.rounds}, {date}, {device}"
    with tempfile.TemporaryDirectory() as folder:
        _in_a_process([*arguments, "--step", "prepare", folder], "tensorflow")
        for row in options.rows:
            found = _in_a_process([*arguments, "--step", row, folder], ROWS[row][0])
            rows.append({"row": row, **found})
            print(rows[-1], file=sys.stderr, flush=True)
            if options.json:
                _write(options, {"title": title, **measuring.threads(), "rows": rows})
    print(f"{title}\n\n{markdown(rows)}")
    return rows


def _write(options, result):
    with whole_file(options.json) as name, open(name, "w") as file:
        json.dump(result, file, indent=1)
    with whole_file(os.path.splitext(options.json)[0] + ".md") as name, open(name, "w") as file:
        file.write(f"{result['title']}\n\n{markdown(result['rows'])}\n")


if __name__ == "__main__":
    main()

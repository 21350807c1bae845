r"""How many frequencies does trained attention need? Low frequency without retraining, measured.

    python examples/ablate_frequencies.py [--affinity linear] [--output DIR]
    python examples/ablate_frequencies.py --model runs/street/model.keras \
        --images images/val --masks masks/val --ignore-label 11 --size 240 320

The attention of a trained FsaNet is truncated to its k lowest frequencies per axis, for one k after
the other, and the network is scored each time. Nothing is trained on the way. Without --model, a
small FsaNet with regular self-attention is trained first, on the data set `signal_harbor`, as in
`quickstart.py`.

Regular attention remains a softmax over all positions, of a low-passed map: that shows what it
needs, and costs more than before. With --affinity linear the softmax is replaced by its first-order
expansion, which turns it into frequency self-attention.

What comes out, printed and in the folder of --output: `frequencies.md`, a table with the mIoU, the
operations of the attention alone (a multiplication with its addition counts as two) and the time of
the whole network for each k; `frequencies.png`, the same as a plot; `model.keras`, if one was
trained.

It runs on TensorFlow, JAX and torch: set KERAS_BACKEND.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from quickstart import train
from train_folder import evaluate

import keras_fsa
import keras_fsa.datasets
from keras_fsa.datasets.folder import folder_dataset
from keras_fsa.files import whole_file
from keras_fsa.flops import attention_flops
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from keras_fsa.spectral import check_band_fits
from keras_fsa.visualize.figure import finish, new_figure

COLUMNS = ("k", "mIoU", "attention MFLOP", "ms per picture")


def main():
    args = parse_arguments()
    if keras.backend.backend() != "tensorflow":
        # TensorFlow only reads the data here. It would take the memory of the GPU otherwise.
        tf.config.set_visible_devices([], "GPU")
    args.output.mkdir(parents=True, exist_ok=True)
    if args.model:
        model = keras.saving.load_model(args.model)
    else:
        data = tfds.load("signal_harbor", split="train", as_supervised=True, data_dir=args.data_dir)
        data = data.cache().shuffle(640, seed=args.seed).batch(8).prefetch(2)
        attention = SpatialSelfAttention(residual="batch_norm")
        model = train(attention, data, args.epochs, args.seed)
        with whole_file(args.output / "model.keras") as unfinished:
            model.save(unfinished)
    if args.images:
        data = folder_dataset(
            args.images, args.masks, model.num_classes, args.size, args.ignore_label
        )
    else:
        data = tfds.load("signal_harbor", split="test", as_supervised=True, data_dir=args.data_dir)
    data = data.batch(args.batch).prefetch(2)

    pictures, _ = next(data.as_numpy_iterator())
    height, width = model.backbone.compute_output_shape(pictures.shape)["stage5"][1:3]
    print(f"Pictures of {pictures.shape[1:3]}, feature maps of {(height, width)}.")

    rows = [("as trained", *measure(model, data, pictures, height, width))]
    for k in args.frequencies:
        try:
            check_band_fits(k, height, width)
            truncated = keras_fsa.to_frequency(model, k, args.affinity)
        except ValueError as error:
            print(f"k = {k} is left out. {error}")
            continue
        rows.append((k, *measure(truncated, data, pictures, height, width)))

    table = as_markdown(rows)
    print(table)
    with whole_file(args.output / "frequencies.md") as unfinished:
        unfinished.write_text(table)
    plot(rows, args.output / "frequencies.png")
    print(f"Written to {args.output}")


def measure(model, data, pictures, height, width):
    """Mean IoU, millions of operations of the attention, milliseconds for a picture."""
    iou = evaluate(model, data, model.num_classes)
    attention = next(
        layer
        for layer in model.head.layers
        if isinstance(layer, (FrequencySelfAttention, SpatialSelfAttention))
    )
    flops = attention_flops(attention, height, width)
    seconds = []
    # `evaluate` has warmed it up.
    for _ in range(10):
        start = time.perf_counter()
        model.predict_on_batch(pictures)
        seconds.append(time.perf_counter() - start)
    return float(np.nanmean(iou)), flops / 1e6, 1e3 * float(np.median(seconds)) / len(pictures)


def as_markdown(rows):
    lines = [COLUMNS, ["---:"] * len(COLUMNS)]
    lines += [(k, f"{iou:.4f}", f"{flops:.2f}", f"{ms:.2f}") for k, iou, flops, ms in rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def plot(rows, path):
    """One panel for each measure; the model as it was trained is the dashed line."""
    (_, *untruncated), *truncated = rows
    figure = new_figure(11, 3.4)
    for i, axis in enumerate(figure.subplots(1, 3), start=1):
        axis.plot([row[0] for row in truncated], [row[i] for row in truncated], "o-")
        axis.axhline(untruncated[i - 1], color="0.4", linestyle="--", label="as trained")
        axis.set_xlabel("k, frequencies per axis")
        axis.set_xticks([row[0] for row in truncated])
        axis.set_title(COLUMNS[i])
        if i > 1:
            axis.set_ylim(0, 1.2 * max(row[i] for row in rows))
        axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    finish(figure, path)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, help="a trained FsaNet with attention, a .keras file")
    add("--images", help="folder of pictures to score it on; without, the test set of the harbour")
    add("--masks", help="folder of their masks")
    add("--size", type=int, nargs=2, default=(240, 320), metavar=("HEIGHT", "WIDTH"), help="pixels")
    add("--ignore-label", type=int, default=255, help="id in the masks of pixels of no class")
    add("--data-dir", help="where the harbour is kept; None: TFDS's folder")
    add("--frequencies", type=int, nargs="+", default=(1, 2, 3, 5, 8, 12, 16), metavar="K")
    add("--affinity", choices=("linear",), help="what softmax becomes; None: it stays")
    add("--batch", type=int, default=16, help="pictures at a time")
    add("--epochs", type=int, default=6, help="of the training without --model")
    add("--seed", type=int, default=0, help="of the training without --model")
    add("--output", type=Path, default=Path("outputs/frequencies"), help="folder for all results")
    args = parser.parse_args()

    if bool(args.images) != bool(args.masks):
        parser.error("--images and --masks go together")
    if args.images and not args.model:
        parser.error("--images needs --model, a network that was trained on such pictures")
    return args


if __name__ == "__main__":
    main()

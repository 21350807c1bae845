r"""Scores a trained model on a data set, as the benchmarks do, or writes what their server wants.

    python examples/evaluate.py --model fsanet.keras --data-set cityscapes --data-dir data \
        --mode slide --window 769 --stride 513 --output outputs/cityscapes

    python examples/evaluate.py --model fsanet.keras --data-set ade20k --data-dir data \
        --fit 2048 512

    python examples/evaluate.py --model fsanet.keras --images images/val --masks masks/val

Pictures are read one after the other and pass at their own size, whole or in windows, at one or
several scales (--scales 0.5 0.75 1 1.25 1.5 1.75 2) and with --flip mirrored, too; see
`keras_fsa/inference.py`. The model is a `.keras` file, or an exported one (SavedModel, ONNX and so
on, see `examples/export.py`) that takes pictures of any size and gives logits.

What comes out, in the folder of --output:

- `scores.json`: IoU, accuracy and boundary F-score of each class, their means, pixel accuracy;
- `confusion.png`: what the pixels of each class were taken for.

For the server of Cityscapes, give the folder of the test pictures alone; subfolders are searched:

    python examples/evaluate.py --model fsanet.keras --images leftImg8bit/test \
        --data-set cityscapes --mode slide --submission outputs/submission

Each file of --submission has the name of its picture, and the raw label ids of the data set.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import keras_fsa  # noqa: F401 (the model's class)
from keras_fsa.datasets import cityscapes, describe, folder_dataset, load
from keras_fsa.datasets.folder import EXTENSIONS, match_pairs
from keras_fsa.datasets.registry import NAMES
from keras_fsa.files import whole_file
from keras_fsa.inference import batches_by_size, class_map
from keras_fsa.metrics import boundary_scores, confusion_matrix, confusion_scores, nan_mean
from keras_fsa.models.exporting import load_exported
from keras_fsa.visualize import confusion_picture


def main():
    args = parse_arguments()
    if keras.backend.backend() != "tensorflow":
        # TensorFlow only reads the data here. It would take the memory of the GPU otherwise.
        tf.config.set_visible_devices([], "GPU")
    if args.model.suffix == ".keras":
        model = keras.saving.load_model(args.model)
    else:
        model = load_exported(args.model)
    settings = {
        "window": args.window if args.mode == "slide" else None,
        "stride": args.stride if args.mode == "slide" else None,
        "scales": args.scales,
        "flip": args.flip,
        "fit": args.fit,
        "align_corners": args.align_corners,
    }

    n = len(args.class_names)
    if n != getattr(model, "num_classes", n):
        raise SystemExit(f"The model has {model.num_classes} classes, the data {n}.")
    examples, count, has_masks = open_data(args)
    confusion, boundaries = np.zeros((n, n), "int64"), []
    bar = keras.utils.Progbar(count, interval=1, verbose=not args.quiet, unit_name="picture")
    for batch in batches_by_size(examples, args.batch, limit=4 * args.batch):
        pictures = np.stack([picture for picture, _, _ in batch])
        for (_, mask, name), ids in zip(batch, class_map(model, pictures, **settings), strict=True):
            if args.submission:
                write_submission(args.submission, name, ids, args.data_set)
            if has_masks:
                confusion += confusion_matrix(mask, ids, n)
                boundaries.append(boundary_scores(mask, ids, n, args.boundary_tolerance))
        bar.add(len(batch))
    if args.submission:
        print(f"Predictions for {count} pictures are in {args.submission}")
    if has_masks:
        report(confusion, boundaries, count, args)


def open_data(args):
    """`(picture, mask or None, name)` of each example; their number; whether there are masks."""
    if args.images and not args.masks:
        files = sorted(path for path in args.images.rglob("*") if path.suffix.lower() in EXTENSIONS)
        if not files:
            raise SystemExit(f"--images {args.images} holds no pictures.")
        if len({path.stem for path in files}) < len(files):
            raise SystemExit(f"--images {args.images} holds pictures of one name in subfolders.")

        def read():
            for path in files:
                with Image.open(path) as file:
                    yield np.asarray(file.convert("RGB")), None, path.stem

        return read(), len(files), False
    if args.images:
        pairs = match_pairs(args.images, args.masks)
        data = folder_dataset(
            *zip(*pairs, strict=True), len(args.class_names), None, args.ignore_label
        )
        names = [path.stem for path, _ in pairs]
    else:
        data = load(
            args.data_set,
            args.split,
            data_dir=args.data_dir,
            manual_dir=args.manual_dir,
            skip_unreadable=args.skip_unreadable,
        )
        names = None
    name_of = names.__getitem__ if names else data.name
    stream = (
        (picture, mask, name_of(i) if args.submission else None)
        for i, (picture, mask) in enumerate(data.as_numpy_iterator())
    )
    return stream, len(data), True


def write_submission(folder, name, ids, data_set):
    """The class map of a picture as a PNG of the data set's raw label ids."""
    raw_ids = {"cityscapes": cityscapes.RAW_IDS, "ade20k": range(1, 151)}.get(data_set)
    if raw_ids is not None:
        ids = np.array(raw_ids, "uint8")[ids]
    with whole_file(folder / f"{Path(name).name}.png") as unfinished:
        Image.fromarray(ids).save(unfinished)


def report(confusion, boundaries, count, args):
    """Print the table, write the JSON and the picture."""
    scores = confusion_scores(confusion)
    boundary = nan_mean(boundaries, axis=0)
    columns = {
        "iou": scores["class_iou"],
        "accuracy": scores["class_accuracy"],
        "boundary_f": boundary,
    }
    means = {
        "mean_iou": scores["mean_iou"],
        "mean_accuracy": scores["mean_accuracy"],
        "mean_boundary_f": nan_mean(boundary),
        "pixel_accuracy": scores["pixel_accuracy"],
    }
    print(f"\n{'class':>24}     IoU  accuracy  boundary F")
    rows = [*zip(args.class_names, *columns.values(), strict=True), ("mean", *means.values())]
    for name, iou, accuracy, boundary_f, *_ in rows:
        print(f"{name[:24]:>24}  {iou:6.4f}    {accuracy:6.4f}      {boundary_f:6.4f}")
    print(f"{'pixel accuracy':>24}  {means['pixel_accuracy']:6.4f}")

    def number(value):
        # JSON has no NaN.
        return None if np.isnan(value) else float(value)

    result = {
        **{name: number(value) for name, value in means.items()},
        "classes": {
            name: {key: number(values[i]) for key, values in columns.items()}
            for i, name in enumerate(args.class_names)
        },
        "pictures": count,
        "pixels": int(confusion.sum()),
        "arguments": vars(args),
    }
    text = json.dumps(result, indent=2, default=str) + "\n"
    with whole_file(args.output / "scores.json") as unfinished:
        unfinished.write_text(text)
    confusion_picture(confusion, args.class_names, args.output / "confusion.png")
    print(f"Written to {args.output}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a .keras file, or an exported model")
    add("--data-set", choices=NAMES, help="its name")
    add("--data-dir", help="where TFDS keeps data sets")
    add("--manual-dir", help="folder of its archives, where it is not prepared yet")
    add("--skip-unreadable", action="store_true", help="score without its broken files")
    add("--split", help="its name; None: the one that the data set is evaluated on")
    add("--images", type=Path, help="instead of a data set: folder of pictures")
    add("--masks", type=Path, help="folder of their masks; none for predictions only")
    add("--class-names", type=lambda names: names.split(","), help="for --images: sky,road,car")
    add("--ignore-label", type=int, default=255, help="for --masks: id of pixels of no class")
    add("--mode", choices=("whole", "slide"), default="whole", help="whole pictures, or windows")
    add("--window", type=int, default=769, help="for --mode slide: pixels")
    add("--stride", type=int, default=513, help="for --mode slide: pixels from window to window")
    add("--scales", type=float, nargs="+", default=[1.0], help="average over these sizes")
    add("--flip", action="store_true", help="average over each picture and its mirror image")
    add("--fit", type=int, nargs=2, metavar=("LONG", "SHORT"), help="resize to fit, before scales")
    add(
        "--align-corners",
        action=argparse.BooleanOptionalAction,
        help="when logits are resized; None: as the model does",
    )
    add("--boundary-tolerance", type=float, default=3, help="pixels, or below 1 of the diagonal")
    add("--batch", type=int, default=1, help="pictures of one size at a time")
    add("--submission", type=Path, help="folder for predictions with the data set's raw ids")
    add("--quiet", action="store_true", help="no progress bar")
    add("--output", type=Path, default=Path("outputs/evaluate"), help="folder for the scores")
    args = parser.parse_args()

    if not args.images and not args.data_set:
        parser.error("give --data-set or --images")
    if args.images and not args.masks and not args.submission:
        parser.error("--images without --masks needs --submission: there is nothing to score")
    if args.masks and not args.images:
        parser.error("--masks needs the --images they belong to")
    if not args.class_names and not args.data_set:
        parser.error("--images needs --class-names, or the --data-set whose classes they are")
    if args.data_set:
        description = describe(args.data_set)
        args.class_names = list(args.class_names or description.class_names)
        args.split = args.split or list(description.splits)[-1]
    return args


if __name__ == "__main__":
    main()

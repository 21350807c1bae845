r"""Trains FsaNet on your own pictures and masks, which lie in two folders.

    python examples/train_folder.py --images images/train --masks masks/train \
        --val-images images/val --val-masks masks/val --num-classes 11 --ignore-label 11 \
        --size 240 320 --output outputs/street

A mask has the name of its picture (`0001.jpg`, `0001.png`) and holds one class id per pixel,
0 to num-classes - 1, or the ignore label. Without --val-images, a tenth of the pictures is kept
for validation; frames of one video belong in folders of their own, since they look alike.

What comes out, in the folder of --output:

- `model.keras`: the network of the epoch with the best validation mIoU;
- `history.csv`: loss and mIoU of each epoch;
- `metrics.json`: the IoU of each class and their mean (printed, too) of `model.keras`;
- `predictions.png`: the first validation pictures beside their truth and prediction.

It runs on TensorFlow, JAX and torch: set KERAS_BACKEND.
"""

import argparse
import json
import random
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_fsa
from keras_fsa.datasets.augment import training_batches
from keras_fsa.datasets.folder import folder_dataset, match_pairs
from keras_fsa.files import whole_file
from keras_fsa.metrics import IGNORE_LABEL, MeanIoU
from keras_fsa.visualize import comparison


def main():
    args = parse_arguments()
    keras.utils.set_random_seed(args.seed)
    tf.random.set_seed(args.seed)
    if keras.backend.backend() != "tensorflow":
        # TensorFlow only reads the data here. It would take the memory of the GPU otherwise.
        tf.config.set_visible_devices([], "GPU")

    train_pairs = match_pairs(args.images, args.masks)
    if args.val_images:
        val_pairs = match_pairs(args.val_images, args.val_masks)
    else:
        random.shuffle(train_pairs)
        count = max(1, round(args.val_fraction * len(train_pairs)))
        val_pairs, train_pairs = sorted(train_pairs[:count]), train_pairs[count:]
    if len(train_pairs) < args.batch:
        raise SystemExit(
            f"--batch {args.batch} is more than the {len(train_pairs)} training pictures."
        )
    train, val = (
        folder_dataset(*zip(*pairs, strict=True), args.num_classes, args.size, args.ignore_label)
        for pairs in (train_pairs, val_pairs)
    )
    steps = len(train) // args.batch
    train = training_batches(
        train,
        args.size,
        args.batch,
        args.seed,
        scales=(0.75, 2.0),
        max_class_share=1,
        photometric=False,
    )
    val = val.batch(args.batch).prefetch(tf.data.AUTOTUNE)

    model = keras_fsa.FsaNet(
        num_classes=args.num_classes,
        backbone=args.backbone,
        output_stride=args.output_stride,
        attention=None if args.attention == "none" else args.attention,
        affinity=args.affinity,
        frequencies=args.frequencies,
        recurrence=args.recurrence,
        head_channels=args.head_channels,
    )
    learning_rate = keras.optimizers.schedules.PolynomialDecay(
        args.learning_rate, args.epochs * steps, end_learning_rate=1e-4, power=0.9
    )
    model.compile(optimizer=keras.optimizers.SGD(learning_rate, momentum=0.9))

    args.output.mkdir(parents=True, exist_ok=True)
    best = args.output / "model.keras"
    model.fit(
        train,
        validation_data=val,
        epochs=args.epochs,
        steps_per_epoch=steps,
        shuffle=False,  # the data set does so itself
        callbacks=[
            keras.callbacks.CSVLogger(args.output / "history.csv"),
            keras.callbacks.ModelCheckpoint(
                best, monitor="val_mean_iou", mode="max", save_best_only=True
            ),
        ],
    )

    model = keras.saving.load_model(best)
    iou = evaluate(model, val, args.num_classes)
    mean = float(np.nanmean(iou))
    for name, value in zip(args.class_names, iou, strict=True):
        print(f"{name:>20}  {'absent' if np.isnan(value) else f'{value:.4f}'}")
    print(f"{'mean IoU':>20}  {mean:.4f}")
    metrics = {
        "mean_iou": mean,
        "iou": {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(args.class_names, iou, strict=True)
        },
        "train_pictures": len(train_pairs),
        "val_pictures": len(val_pairs),
        "parameters": model.count_params(),
        "arguments": vars(args),
    }
    with whole_file(args.output / "metrics.json") as unfinished:
        unfinished.write_text(json.dumps(metrics, indent=2, default=str) + "\n")

    images, masks = next(val.unbatch().batch(4).as_numpy_iterator())
    comparison(
        images,
        masks,
        np.argmax(model.predict_on_batch(images), axis=-1),
        class_names=args.class_names,
        path=args.output / "predictions.png",
    )
    print(f"Written to {args.output}")


def evaluate(model, data, num_classes):
    """The IoU of each class over a whole data set; NaN for a class that never occurs."""
    metric = MeanIoU(num_classes, ignore_class=IGNORE_LABEL, sparse_y_pred=False)
    for images, masks in data.as_numpy_iterator():
        metric.update_state(masks, model.predict_on_batch(images))
    return metric.class_iou()


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--images", required=True, help="folder of the training pictures")
    add("--masks", required=True, help="folder of their masks")
    add("--num-classes", type=int, required=True, help="the ids are 0 to this number - 1")
    add("--val-images", help="folder of the validation pictures")
    add("--val-masks", help="folder of their masks")
    add("--val-fraction", type=float, default=0.1, help="part kept where there is no --val-images")
    add("--size", type=int, nargs=2, default=(240, 320), metavar=("HEIGHT", "WIDTH"), help="pixels")
    add("--ignore-label", type=int, default=255, help="id in the masks of pixels of no class")
    add("--class-names", type=lambda names: names.split(","), help="such as sky,road,car")
    add("--backbone", default="resnet18", help="name of the backbone")
    add("--output-stride", type=int, default=8, help="picture size over feature size")
    add(
        "--attention",
        choices=("frequency", "spatial", "none"),
        default="frequency",
        help="its kind",
    )
    add(
        "--affinity", choices=("dot_product", "linear_softmax", "linear"), help="None: FsaNet's own"
    )
    add("--frequencies", type=int, default=8, help="low frequencies kept per axis")
    add("--recurrence", type=int, default=2, help="times the attention is applied")
    add("--head-channels", type=int, default=128, help="channels of the head")
    add("--batch", type=int, default=8, help="pictures per step")
    add("--epochs", type=int, default=60, help="passes over the training pictures")
    add("--learning-rate", type=float, default=0.01, help="at the start; it decays to 0.0001")
    add("--seed", type=int, default=0, help="of the weights, the split and the augmentation")
    add("--output", type=Path, default=Path("outputs/folder"), help="folder for all results")
    args = parser.parse_args()

    if bool(args.val_images) != bool(args.val_masks):
        parser.error("--val-images and --val-masks go together")
    if not 0 < args.val_fraction < 1:
        parser.error(f"--val-fraction must lie between 0 and 1, not {args.val_fraction}")
    if args.class_names is None:
        args.class_names = [f"class {i}" for i in range(args.num_classes)]
    if len(args.class_names) != args.num_classes:
        parser.error(f"--class-names has {len(args.class_names)} names, not {args.num_classes}")
    return args


if __name__ == "__main__":
    main()

"""FsaNet in three minutes: train, score, save, load, deploy, draw.

    python examples/quickstart.py [--output DIR] [--epochs 6] [--seed 0]

The data set `signal_harbor` is drawn on the spot. In it, boats that enter and boats that leave look
alike; only the signal at the far end of the harbour tells which is which, and it is further away
than a small convolutional network can see. The same network is trained twice, without attention
and with frequency self-attention, and both scores are printed.

Left behind in the output folder: `fsanet.keras` (the model), `saved_model/` (the same for serving,
any picture size) and `prediction.png` (pictures, truth, both predictions).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

import keras_fsa
import keras_fsa.datasets
from keras_fsa.datasets.signal_harbor import CLASSES, PALETTE
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.metrics import MeanIoU
from keras_fsa.visualize import comparison


def small_backbone():
    """Three convolutions, features at a quarter of the size.

    Any model does that names its features so. With the head's three convolutions each position sees
    the pixels up to 20 away; the resizing of the logits adds at most 4. The signal is 44 away.
    """

    def block(x, filters, stride):
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    pictures = keras.Input((None, None, 3))
    stage4 = block(block(pictures, 24, stride=2), 48, stride=2)
    return keras.Model(pictures, {"stage4": stage4, "stage5": block(stage4, 48, stride=1)})


def train(attention, data, epochs, seed):
    keras.utils.set_random_seed(seed)
    model = keras_fsa.FsaNet(
        num_classes=len(CLASSES),
        backbone=small_backbone(),
        attention=attention,
        head_channels=32,
    )
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, epochs * len(data))
    model.compile(optimizer=keras.optimizers.Adam(schedule))
    model.fit(data, epochs=epochs, shuffle=False)  # the data set does so itself
    return model


def class_scores(model, data):
    """IoU of each class, and their mean."""
    metric = MeanIoU(len(CLASSES), sparse_y_pred=False)
    for pictures, masks in data.as_numpy_iterator():
        metric.update_state(masks, model.predict_on_batch(pictures))
    scores = metric.class_iou()
    return dict(zip((*CLASSES, "mean"), (*scores, scores.mean()), strict=True))


def export_saved_model(model, keras_file, folder):
    """Export; under torch, which writes no SavedModel, in a TensorFlow process from the file."""
    if keras.backend.backend() != "torch":
        return model.export(folder, verbose=False)
    code = (
        "import sys, keras, keras_fsa; "
        "keras.saving.load_model(sys.argv[1]).export(sys.argv[2], verbose=False)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "-c", code, keras_file, folder], env=environment, check=True)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    parser.add_argument("--data-dir", help="where the data set is kept; default: TFDS's folder")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    print(f"Backend: {keras.backend.backend()}. Drawing the harbour ...")
    (train_data, test_data), info = tfds.load(
        "signal_harbor",
        split=["train", "test"],
        as_supervised=True,
        data_dir=args.data_dir,
        with_info=True,
    )
    train_data = train_data.cache().shuffle(640, seed=args.seed).batch(8).prefetch(2)
    test_data = test_data.batch(16).cache()

    print("\nTraining without attention")
    without = train(None, train_data, args.epochs, args.seed)
    print("\nTraining with frequency self-attention")
    # These settings learn the signal an epoch or two before the defaults do.
    attention = FrequencySelfAttention(8, "linear_softmax", residual="batch_norm")
    model = train(attention, train_data, args.epochs, args.seed)

    keras_file = str(args.output / "fsanet.keras")
    model.save(keras_file)
    model = keras.saving.load_model(keras_file)

    scores = {"without": class_scores(without, test_data), "with": class_scores(model, test_data)}
    count = info.splits["test"].num_examples
    print(f"\nIoU on {count} test pictures\n{'class':>12}  without     with")
    for name in scores["with"]:
        print(f"{name:>12}  {scores['without'][name]:7.3f}  {scores['with'][name]:7.3f}")

    folder = str(args.output / "saved_model")
    export_saved_model(model, keras_file, folder)
    pictures, masks = next(test_data.as_numpy_iterator())
    loaded = tf.saved_model.load(folder)
    served = loaded.serve(pictures[:1].astype("float32")).numpy()
    difference = np.abs(served - model.predict(pictures[:1], verbose=0)).max()
    print(f"\nThe SavedModel serves a picture; its logits differ by at most {difference:.1e}.")

    few = slice(0, 3)
    comparison(
        pictures[few],
        masks[few],
        [np.argmax(m.predict(pictures[few], verbose=0), axis=-1) for m in (without, model)],
        class_names=CLASSES,
        palette=PALETTE,
        path=args.output / "prediction.png",
        titles=("without attention", "with FSA"),
    )
    print(f"Model, SavedModel and picture are in {args.output}")


if __name__ == "__main__":
    main()

"""Trains FsaNet on ADE20K (150 classes), with the settings behind the paper's ADE20K table.

    python examples/train_ade20k.py --data-dir data --manual-dir archives

`archives` holds ADEChallengeData2016.zip, see keras_fsa/datasets/ade20k.py. The same command
resumes a training that was stopped. It runs on TensorFlow, JAX and torch: set KERAS_BACKEND.
Several devices: `--devices all`, see keras_fsa/training/devices.py. `--help` lists all flags.

What comes out, in outputs/ade20k: model.keras, best.keras (by validation), history.csv,
tensorboard, predictions of the first validation images, and checkpoint.npz to resume from.

Time: not run in full. A crop of 512x512 takes 284 G multiply-adds forward, three times that with
the backward pass, 2.2e18 operations in all: about 12 hours of a GPU that sustains 50 TFLOP/s.

Expected: 43 to 45 % mean IoU on the 2000 validation images at a single scale. That is what
mmsegmentation publishes for heads with global context on the same backbone and schedule (non-local
42.90, CCNet 43.97, DANet 43.64), not a figure of this script. Validation on the way shrinks
images to fit into 512x683; the benchmark's figure comes from images fitted into 2048x512.

What each setting is for:

- preset: the head of the authors' mmsegmentation experiments: queries, keys and values of half the
  channels, an output projection, and a batch norm whose scale starts at 0.
- affinity, recurrence: the paper's table has both affinities and R = 1 and 2:
  `--affinity linear_softmax --recurrence 1`.
- base_size: images fit into 2048x512 times the random scale, so their short side is 512.
- batch_norm: of the whole batch. On several devices JAX computes it; for torch and TensorFlow take
  `--batch-norm moving`, which is another recipe.
"""

from keras_fsa.commands.recipe import main
from keras_fsa.training import Recipe

RECIPE = Recipe(
    dataset="ade20k",
    output="outputs/ade20k",
    # the network
    preset="mmseg_dot_r2_ade20k",
    backbone="resnet101",
    weights="imagenet",
    output_stride=8,
    affinity="dot_product",
    frequencies=5,
    recurrence=2,
    align_corners=False,
    # the data
    crop=(512, 512),
    scales=(0.5, 2.0),
    base_size=(2048, 512),
    max_class_share=0.75,
    photometric=True,
    # the optimisation
    steps=80_000,
    batch=16,
    learning_rate=0.01,
    final_learning_rate=1e-4,
    momentum=0.9,
    weight_decay=5e-4,
    loss="cross_entropy",
    auxiliary_loss_weight=0.4,
    batch_norm="batch",
    # on the way
    validation_size=(512, 683),
    validate_every=8000,
)

if __name__ == "__main__":
    main(RECIPE, __doc__)

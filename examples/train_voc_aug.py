"""Trains FsaNet on VOCaug (Pascal VOC 2012 and SBD's masks), as in the paper's VOCaug table.

    python examples/train_voc_aug.py --data-dir data --manual-dir archives

`archives` holds VOCtrainval_11-May-2012.tar and SBD's benchmark.tgz, see
keras_fsa/datasets/voc_aug.py. The same command resumes a training that was stopped. It
runs on
TensorFlow, JAX and torch: set KERAS_BACKEND. Several devices: `--devices all`, see
keras_fsa/training/devices.py. `--help` lists all flags.

What comes out, in outputs/voc_aug: model.keras, best.keras (by validation), history.csv,
tensorboard, predictions of the first validation images, and checkpoint.npz to resume from.

Time: not run in full. A crop of 512x512 takes 283 G multiply-adds forward, three times that with
the backward pass, 1.1e18 operations in all: about 6 hours of a GPU that sustains 50 TFLOP/s.

Expected: 77 to 79 % mean IoU on the 1449 validation images at a single scale. That is what
mmsegmentation publishes for heads with global context on the same backbone and schedule (non-local
78.27, CCNet 77.87, ISANet 78.12), not a figure of this script. Validation on the way takes the
images as they are; the benchmark's figure comes from images fitted into 2048x512.

What each setting is for:

- preset: the head of the authors' mmsegmentation experiments: queries, keys and values of half the
  channels, an output projection, and a batch norm whose scale starts at 0.
- affinity, recurrence: the paper's table has both affinities and R = 1 and 2:
  `--affinity linear_softmax --recurrence 1`. Linear softmax with R = 2 has 10 frequencies:
  `--affinity linear_softmax --frequencies 10`.
- base_size: images fit into 2048x512 times the random scale, so their short side is 512.
- batch_norm: of the whole batch. On several devices JAX computes it; for torch and TensorFlow take
  `--batch-norm moving`, which is another recipe.
"""

from keras_fsa.commands.recipe import main
from keras_fsa.training import Recipe

RECIPE = Recipe(
    dataset="voc_aug",
    output="outputs/voc_aug",
    # the network
    preset="mmseg_dot_r2_voc_aug",
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
    steps=40_000,
    batch=16,
    learning_rate=0.01,
    final_learning_rate=1e-4,
    momentum=0.9,
    weight_decay=5e-4,
    loss="cross_entropy",
    auxiliary_loss_weight=0.4,
    batch_norm="batch",
    # on the way
    validation_size=(512, 512),
    validate_every=4000,
)

if __name__ == "__main__":
    main(RECIPE, __doc__)

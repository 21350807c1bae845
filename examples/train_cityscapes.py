r"""Trains FsaNet on Cityscapes, with the settings behind the paper's Cityscapes result.

    python examples/train_cityscapes.py --data-dir data --manual-dir archives

`archives` holds leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, from
https://www.cityscapes-dataset.com/downloads (with a login). The same command resumes a
training that was stopped. It runs on TensorFlow, JAX and torch: set KERAS_BACKEND. Several devices:
`--devices all`, see keras_fsa/training/devices.py. `--help` lists all flags.

What comes out, in outputs/cityscapes: model.keras, best.keras (by validation), history.csv,
tensorboard, predictions of the first validation images, and checkpoint.npz to resume from.

Time: not run in full. A crop of 849x849 takes 819 G multiply-adds forward, three times that with
the backward pass, 2.4e18 operations in all: about 13 hours of a GPU that sustains 50 TFLOP/s.
Expected: 79 to 81 % mean IoU on the 500 validation images at a single scale. That is what
mmsegmentation publishes for heads with global context on the same backbone (non-local 79.40,
CCNet 79.45, DANet 80.47), not a figure of this script. The paper's 83.0 % is on the test set.

A trial: on a dataset of only two training images, four minutes on one CPU core learn them by
heart (0.92 of their pixels are right at that size; torch, seed 0):

    python examples/train_cityscapes.py --backbone resnet18 --weights none --head-channels 64 \
        --base-size 128 64 --scales 1 --crop 64 128 --validation-size 64 128 --batch 2 \
        --steps 600 --batch-norm batch --loss cross_entropy --checkpoint-every 100 \
        --validate-every 600 --output outputs/trial

What each setting is for:

- preset: the head of the authors' ccnet experiments: queries and keys of C / 8 channels, a gain
  that starts at 0, an auxiliary head of 512 channels.
- batch_norm: the moving statistics, those of ImageNet in the backbone, while scales learn.
- loss: of the hard pixels only, at least 100 000 of the 8 x 849 x 849 in a step.
- crop: 8 x 106 + 1, which goes with corners that are aligned.
"""

from keras_fsa.commands.recipe import main
from keras_fsa.training import Recipe

RECIPE = Recipe(
    dataset="cityscapes",
    output="outputs/cityscapes",
    # the network
    preset="ccnet_dot_r2_cityscapes",
    backbone="resnet101",
    weights="imagenet",
    output_stride=8,
    affinity="dot_product",
    frequencies=8,
    recurrence=2,
    align_corners=True,
    # the data
    crop=(849, 849),
    scales=(0.7, 2.1),
    scale_step=0.1,
    max_class_share=1.0,
    photometric=False,
    # the optimisation
    steps=60_000,
    batch=8,
    learning_rate=0.01,
    final_learning_rate=0.0,
    momentum=0.9,
    weight_decay=1e-4,
    loss="ohem",
    ohem_threshold=0.7,
    ohem_keep=100_000,
    auxiliary_loss_weight=0.4,
    batch_norm="moving",
    # on the way
    validation_size=(1024, 2048),
    validate_every=5000,
)

if __name__ == "__main__":
    main(RECIPE, __doc__)

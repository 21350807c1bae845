"""The rules of the optimizer, batch norm on its moving statistics, recipes, and bad input."""

import csv
import dataclasses
import itertools
import json
import os
import re
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops
from PIL import Image

from keras_fsa.commands.recipe import main
from keras_fsa.datasets import signal_harbor
from keras_fsa.datasets.examples import Examples
from keras_fsa.files import locked_folder
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from keras_fsa.metrics import MeanIoU
from keras_fsa.training import (
    Recipe,
    batch_norm,
    checkpoint,
    fit,
    loop,
    split_examples,
    train,
)
from keras_fsa.training.batch_norm import synchronize, use_moving_statistics
from keras_fsa.training.callbacks import (
    BestModel,
    History,
    StopAtStep,
    TensorBoardByStep,
    Validation,
)
from keras_fsa.training.devices import Devices
from keras_fsa.training.examples import fit_into
from keras_fsa.training.loop import build_model, build_optimizer
from keras_fsa.training.optimizer import SGD, cosine_decay, poly_decay
from tests import tiny_training
from tests.helpers import BACKEND, array, run_python


def linear_model(optimizer, rng):
    """A least-squares problem with a kernel and a bias, and its gradient in NumPy."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    kernel, bias = rng.standard_normal((3, 2)), rng.standard_normal(2)
    model.layers[0].set_weights([kernel, bias])
    model.compile(optimizer, "mean_squared_error", auto_scale_loss=False)
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))

    def gradient(kernel, bias):
        error = 2 * (x @ kernel + bias - y) / y.size
        return x.T @ error, error.sum(0)

    return model, (x.astype("float32"), y.astype("float32")), [kernel, bias], gradient


def torch_sgd(weights, gradient, rates, momentum, weight_decay):
    """`torch.optim.SGD` as its documentation has it, with PyTorch's scheduler before each step."""
    buffers = [np.zeros_like(w) for w in weights]
    for rate in rates:
        gradients = [g + weight_decay * w for g, w in zip(gradient(*weights), weights, strict=True)]
        buffers = [momentum * b + g for b, g in zip(buffers, gradients, strict=True)]
        weights = [w - rate * b for w, b in zip(weights, buffers, strict=True)]
    return weights


def distance(weights, others):
    return max(np.abs(array(w) - o).max() for w, o in zip(weights, others, strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scaled", [False, True])
def test_sgd_is_pytorchs(rng, momentum, scaled):
    optimizer = SGD(poly_decay(0.1, 0.01, 12), momentum, l2=0.05)
    if scaled:  # as under mixed_float16
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0)
    model, (x, y), weights, gradient = linear_model(optimizer, rng)
    model.fit(x, y, batch_size=5, epochs=12, verbose=0)
    rates = [0.09 * (1 - step / 12) ** 0.9 + 0.01 for step in range(12)]
    expected = torch_sgd(weights, gradient, rates, momentum, 0.05)
    assert distance(model.weights, expected) < 1e-6


def test_decoupled_decay_is_ten_times_weaker(rng):
    """Why `keras.optimizers.SGD(weight_decay=...)` is not the authors' weight decay."""
    model, (x, y), weights, gradient = linear_model(
        keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.05), rng
    )
    x, y = (np.tile(values, (200, 1)) for values in (x, y))
    model.fit(x, y, batch_size=5, shuffle=False, verbose=0)
    rates = [0.01] * 200
    same, tenth, none = (
        distance(model.weights, torch_sgd(weights, gradient, rates, 0.9, decay))
        for decay in (0.05, 0.005, 0.0)
    )
    assert 5 * tenth < min(same, none)


def test_poly_decay_is_the_papers_formula():
    schedule = poly_decay(0.01, 1e-4, 80_000)
    for step in (0, 1, 39_999, 79_999, 80_000):
        expected = (0.01 - 1e-4) * (1 - step / 80_000) ** 0.9 + 1e-4
        np.testing.assert_allclose(float(schedule(step)), expected, rtol=1e-5)


def test_cosine_decay_rises_and_falls():
    schedule = cosine_decay(0.01, 1e-4, 73, warmup_steps=11)
    for step in (0, 5, 11, 12, 41, 73, 90):
        share = min(step - 11, 62) / 62
        fall = 1e-4 + (0.01 - 1e-4) * (1 + np.cos(np.pi * share)) / 2
        expected = 0.01 * step / 11 if step < 11 else fall
        np.testing.assert_allclose(float(schedule(step)), expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(float(cosine_decay(0.01, 1e-4, 73)(0)), 0.01, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "layer"),
    [
        ({}, FrequencySelfAttention),
        ({"attention": "spatial", "affinity": "softmax"}, SpatialSelfAttention),
        ({"attention": "none"}, type(None)),
    ],
)
@pytest.mark.parametrize("preset", ["ccnet_dot_r2_cityscapes", "mmseg_dot_r2_voc_aug"])
def test_a_recipe_says_which_attention(preset, settings, layer):
    recipe = Recipe("a", preset=preset, backbone="resnet18", weights=None, recurrence=1, **settings)
    model = build_model(recipe, 3)
    assert isinstance(model.attention_layer(), layer)


def test_adamw_decays_the_kernels_only():
    recipe = Recipe(
        "a", optimizer="adamw", learning_rate=0.1, final_learning_rate=0.1, weight_decay=0.5
    )
    layer = keras.layers.Dense(3, bias_initializer="ones")
    layer.build((None, 2))
    kernel = ops.convert_to_numpy(layer.kernel)
    build_optimizer(recipe).apply([ops.zeros((2, 3)), ops.zeros((3,))], [layer.kernel, layer.bias])
    # Decoupled: learning rate times decay, whatever the gradient.
    np.testing.assert_allclose(ops.convert_to_numpy(layer.kernel), 0.95 * kernel, rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.bias), np.ones(3))


def normalised_model():
    inputs = keras.Input((4, 6, 3))
    x = layers.BatchNormalization(epsilon=1e-5)(inputs)
    x = FrequencySelfAttention(2, residual="batch_norm")(x)
    model = keras.Model(inputs, x)
    for layer in batch_norm.batch_norm_layers(model):
        for weight, value in zip(layer.weights, (1.5, 0.2, 0.3, 2.0), strict=True):
            weight.assign(np.full(weight.shape, value))
    return model


def test_moving_statistics_stay_and_scales_learn(rng):
    model = normalised_model()
    norms = batch_norm.batch_norm_layers(model)
    assert len(norms) == 2  # the one of the attention, too
    trainable = [v.path for v in model.trainable_variables]
    use_moving_statistics(model)
    assert [v.path for v in model.trainable_variables] == trainable
    x = rng.standard_normal((5, 4, 6, 3)).astype("float32")
    inference = array(model(x, training=False))
    np.testing.assert_allclose(array(model(x, training=True)), inference, atol=1e-6)
    before = [[array(w) for w in layer.weights] for layer in norms]
    model.compile(SGD(0.1), "mean_squared_error")
    model.fit(x, x, verbose=0)
    for layer, old in zip(norms, before, strict=True):
        gamma, beta, mean, variance = (
            np.abs(array(w) - o).max() for w, o in zip(layer.weights, old, strict=True)
        )
        assert gamma > 1e-4 and beta > 1e-4 and mean == 0 and variance == 0

    use_moving_statistics(model, False)
    assert [v.path for v in model.trainable_variables] == trainable
    assert all(layer.trainable for layer in norms)
    assert np.abs(array(model(x, training=True)) - array(model(x))).max() > 1e-2


def test_synchronised_batch_norm():
    model = tiny_training.backbone()
    if BACKEND == "torch":
        with pytest.raises(ValueError, match=r'Received: batch_norm="batch".*"moving"'):
            synchronize(model)
        return
    synchronize(model)
    on_tensorflow = BACKEND == "tensorflow"
    assert all(n.synchronized == on_tensorflow for n in batch_norm.batch_norm_layers(model))
    synchronize(model, False)
    assert not any(layer.synchronized for layer in batch_norm.batch_norm_layers(model))
    if on_tensorflow:
        with pytest.raises(ValueError, match="that of tokens cannot"):
            synchronize(normalised_model())


def test_fit_into_keeps_what_fits_and_shrinks_what_does_not(rng):
    image = rng.integers(0, 256, (5, 7, 3)).astype("uint8")
    mask = rng.integers(0, 9, (5, 7)).astype("uint8")
    filled, labels = fit_into(image, mask, (11, 8))
    np.testing.assert_array_equal(filled[:5, :7], image)
    np.testing.assert_array_equal(labels[:5, :7], mask)
    assert (filled[5:] == (124, 116, 104)).all() and (filled[:, 7:] == (124, 116, 104)).all()
    assert (labels[5:] == 255).all() and (labels[:, 7:] == 255).all()
    small, labels = fit_into(image, mask, (11, 4))
    assert small.shape == (11, 4, 3) and (labels != 255).sum() == 3 * 4
    # By hand: rows (i + 1/2) 5/3 - 1/2, columns (j + 1/2) 7/4 - 1/2.
    rows, columns = np.arange(3) * 5 / 3 + 1 / 3, np.arange(4) * 7 / 4 + 3 / 8
    for i, j in np.ndindex(3, 4):
        weights = np.maximum(0, 1 - np.abs(rows[i] - np.arange(5)))[:, None]
        weights = weights * np.maximum(0, 1 - np.abs(columns[j] - np.arange(7)))
        expected = (weights[..., None] * image).sum((0, 1))
        np.testing.assert_allclose(small[i, j], expected, atol=0.501)
        assert labels[i, j] == mask[int((i + 0.5) * 5 / 3), int((j + 0.5) * 7 / 4)]
    grey, _ = fit_into(image[..., :1], mask, (11, 8))
    assert grey.shape == (11, 8, 1) and grey[10, 7, 0] == 115


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_training_learns_and_leaves_its_files(tmp_path, dtype, capsys):
    # One precision with each kind of batch norm and of loss saves a compilation.
    other = dtype != "float32"
    model = tiny_training.run(
        tmp_path,
        steps=31,
        checkpoint_every=5,
        validate_every=30,
        mixed_precision=dtype,
        batch_norm="moving" if other else "batch",
        loss="ohem" if other else "cross_entropy",
        ohem_keep=500,
        drawn_images=2,
        tensorboard=not other,
        class_names=["one", "two", "three"],
    )
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [int(row["step"]) for row in rows] == [5, 10, 15, 20, 25, 30, 31]
    assert [bool(row["val_mean_iou"]) for row in rows] == 5 * [False] + 2 * [True]
    # Hard pixels are others in each step, so their loss tells less than what is learnt.
    assert float(rows[-1]["loss"]) < (1 if other else 0.7) * float(rows[0]["loss"])
    assert float(rows[0]["mean_iou"]) < 0.3 and float(rows[-1]["val_mean_iou"]) > 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        "best.json",
        "best.keras",
        "checkpoint.npz",
        "checkpoint.previous.npz",
        "history.csv",
        "model.keras",
        "predictions",
        "recipe.json",
        *([] if other else ["tensorboard"]),
    ]
    drawn = sorted((tmp_path / "predictions").iterdir())
    assert [path.name for path in drawn] == ["step_000030.png", "step_000031.png"]
    assert Image.open(drawn[0]).size[0] > 500
    assert "Epoch" not in capsys.readouterr().out  # a bar is for terminals
    if not other:
        check_tensorboard(tmp_path / "tensorboard", rows)
        # The file names the optimizer, which `import keras_fsa` makes known.
        code = "import sys, keras, keras_fsa; print(keras.saving.load_model(sys.argv[1]).name)"
        assert run_python(code, tmp_path / "model.keras").split()[-1] == "fsanet"
    again = keras.saving.load_model(tmp_path / "model.keras")
    image, _ = tiny_training.example(0)
    np.testing.assert_array_equal(array(again(image[None])), array(model(image[None])), strict=True)
    assert all(layer.trainable for layer in batch_norm.batch_norm_layers(again))


def check_tensorboard(folder, rows):
    """The figures of the rows are there, by step."""
    import tensorflow as tf

    found = {}
    for path in folder.rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                name = f"{path.parent.name} {value.tag}"
                found.setdefault(name, {})[event.step] = float(tf.make_ndarray(value.tensor))
    for name, column in (
        ("train loss", "loss"),
        ("train mean_iou", "mean_iou"),
        ("train learning_rate", "learning_rate"),
        ("validation mean_iou", "val_mean_iou"),
    ):
        expected = {int(row["step"]): float(row[column]) for row in rows if row[column]}
        assert found[name] == pytest.approx(expected, rel=1e-6)


class Scores(keras.callbacks.Callback):
    """Validations of given scores at the ends of epochs of two steps."""

    def __init__(self, scores, weights, stop_after=None):
        super().__init__()
        self.scores, self.weights, self.stop_after = scores, weights, stop_after

    def on_epoch_end(self, epoch, logs=None):
        logs["val_mean_iou"] = self.scores[epoch]
        self.weights.append([array(w) for w in self.model.weights])


def test_the_best_model_is_kept_over_restarts(tmp_path, rng):
    """Of validations that score 0.2, 0.7, and 0.5 and NaN after a restart."""
    weights, path = [], tmp_path / "best.keras"
    x = rng.standard_normal((4, 4, 6, 3)).astype("float32")
    model = normalised_model()
    use_moving_statistics(model)
    model.compile(SGD(0.1), "mean_squared_error")
    for scores in ((0.2, 0.7), (0.5, float("nan"))):
        model.fit(x, x, 2, 2, 0, [Scores(scores, weights), BestModel(path)])
        # As it was for training.
        assert not any(layer.trainable for layer in batch_norm.batch_norm_layers(model))
        assert json.loads((tmp_path / "best.json").read_text()) == {"val_mean_iou": 0.7}
    saved = keras.saving.load_model(path)
    assert all(layer.trainable for layer in batch_norm.batch_norm_layers(saved))
    for weight, expected in zip(saved.weights, weights[1], strict=True):
        np.testing.assert_array_equal(array(weight), expected)
    # A loss is best where it is lowest; without its file the best is forgotten.
    assert BestModel(tmp_path / "other.keras", best=0.9).best is None
    callback = BestModel(path, best=0.9)
    assert callback.best == 0.7
    (tmp_path / "best.json").unlink()
    assert BestModel(path, best=0.9).best == 0.9
    lowest = BestModel(tmp_path / "lowest.keras", "loss", "min")
    lowest.set_model(model)
    for loss in (0.5, 0.7, 0.4):
        lowest.on_epoch_end(0, {"loss": loss})
    assert lowest.best == 0.4


def test_a_damaged_note_of_the_best(tmp_path):
    (tmp_path / "best.keras").write_text("")
    (tmp_path / "best.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must say the figure .*best.json .*or move the model"):
        BestModel(tmp_path / "best.keras")
    with pytest.raises(ValueError, match=r"must be 'max' or 'min'. Received: mode='up'"):
        BestModel(tmp_path / "best.keras", mode="up")


def test_weights_that_are_not_finite_do_not_become_the_best(tmp_path):
    model = normalised_model()
    model.compile(SGD(0.1), "mean_squared_error")
    path = tmp_path / "best.keras"
    best = BestModel(path)
    best.set_model(model)
    best.on_epoch_end(0, {"val_mean_iou": 0.5})
    before = path.read_bytes()
    model.weights[0].assign(np.full(3, np.nan))
    with pytest.raises(FloatingPointError, match="Weights must be finite"):
        best.on_epoch_end(1, {"val_mean_iou": 0.6})
    assert path.read_bytes() == before and best.best == 0.5


def test_callbacks_serve_in_a_fit_of_ones_own(tmp_path, rng):
    """One by one: a validation of images of several sizes, the history, stopping at a step."""
    examples = [
        (rng.integers(0, 256, (h, w, 3)).astype("uint8"), rng.integers(0, 3, (h, w), "uint8"))
        for h, w in ((16, 24), (19, 21))
    ]
    model = tiny_training.build(tiny_training.recipe(tmp_path), 3)
    model.compile(SGD(0.01), metrics=None)
    history = History(tmp_path / "history.csv")
    callbacks = [StopAtStep(5), Validation(examples, every=3), history]
    model.fit(tiny_training.batches(0), steps_per_epoch=2, epochs=9, callbacks=callbacks, verbose=0)
    assert [row["step"] for row in history.rows] == [2, 4, 5]
    assert ["val_mean_iou" in row for row in history.rows] == [False, True, True]
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert rows[0]["val_mean_iou"] == "" and int(rows[2]["step"]) == 5
    # The same figure, one image after the other.
    metric = MeanIoU(3, ignore_class=255, sparse_y_pred=False)
    for image, mask in examples:
        metric.update_state(mask[None], model.predict_on_batch(image[None]))
    np.testing.assert_allclose(history.rows[-1]["val_mean_iou"], float(metric.result()), rtol=1e-5)


def test_validation_of_several_images_at_a_time(tmp_path, rng):
    examples = [tiny_training.example(number) for number in range(5)]
    model = tiny_training.build(tiny_training.recipe(tmp_path), 3)
    model.compile(SGD(0.01), metrics=None)
    history = History(tmp_path / "history.csv")

    def fit(examples, **settings):
        callbacks = [Validation(examples, **settings), history]
        settings = {"steps_per_epoch": 1, "callbacks": callbacks, "verbose": 0}
        model.fit(tiny_training.batches(0), **settings)
        return history.rows[-1]

    model.trainable = False
    seen = []
    count = keras.callbacks.LambdaCallback(on_test_batch_end=lambda batch, logs: seen.append(batch))
    evaluate = model.evaluate
    model.evaluate = lambda *args, **kw: evaluate(*args, **kw, callbacks=[count])
    alone, pairs = fit(examples), fit(examples, batch=2)
    assert len(seen) == 5 + 3
    for name in ("val_loss", "val_mean_iou"):
        np.testing.assert_allclose(pairs[name], alone[name], rtol=1e-5)
    image, mask = examples[0]
    several = [*examples, (image[:-1], mask[:-1])]
    assert fit(several)["val_mean_iou"] > 0
    rule = r"of one size\. Received: validation images of .* and 3 at a time\. Give the size"
    with pytest.raises(ValueError, match=rule):
        # The first batch is looked at before the training.
        Validation(several[3:], batch=3).on_train_begin()
    with pytest.raises(ValueError, match=rule.replace("3", "2")):
        Validation(several[4:], devices=Devices(2)).on_train_begin()
    # Of two processes each takes one image.
    Validation(several[4:], devices=Devices(2, 0, 2)).on_train_begin()
    with pytest.raises(ValueError, match="`batch` must be .*Received: batch=0"):
        Validation(examples, batch=0)


def test_tensorflow_datasets_serve_as_before(tmp_path):
    import tensorflow as tf

    size = (*tiny_training.CROP, 3)
    signature = tf.TensorSpec(size, "uint8"), tf.TensorSpec(size[:2], "uint8")

    def dataset(first, count):
        examples = [tiny_training.example(number) for number in range(first, first + count)]
        return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)

    def batches(step, part):
        return dataset(4 * step, 20).batch(4).repeat()

    train(
        tiny_training.recipe(tmp_path, steps=4, drawn_images=1),
        3,
        batches,
        dataset(1000, 3).apply(tf.data.experimental.assert_cardinality(3)),
        tiny_training.build,
    )
    assert (tmp_path / "best.keras").exists()
    assert (tmp_path / "predictions/step_000004.png").exists()


def test_a_progress_bar_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    tiny_training.run(tmp_path, steps=4, validation=0)
    out = capsys.readouterr().out
    assert "Epoch 2/2" in out and "2/2" in out and "loss: " in out
    # The bar's line ends before the line of figures.
    assert "\nstep 4  loss" in out


def test_several_devices_without_synchronised_batch_norm(tmp_path, monkeypatch):
    if BACKEND != "torch":
        pytest.skip("the other backends have it: test_distribution.py")
    monkeypatch.setattr(loop, "find_devices", lambda _: Devices(2, 0, 2))
    with pytest.raises(ValueError, match=r'Received: batch_norm="batch" .* Set batch_norm="mov'):
        tiny_training.run(tmp_path, devices="all")


def test_without_tensorboard(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(ImportError, match=r"package 'tensorboard.*pip install"):
        TensorBoardByStep(tmp_path)
    tiny_training.run(tmp_path, steps=1, tensorboard=True)
    assert "TensorBoard is off: " in capsys.readouterr().out
    assert (tmp_path / "model.keras").exists()


def test_a_disk_without_room(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=20_000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"take 0\.0 GB of disk. Received: output='.*Free some"):
        tiny_training.run(tmp_path, steps=1)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["cross_entropy", "ohem"])
def test_class_weights_reach_the_loss(name):
    recipe = tiny_training.recipe("out", loss=name, class_weights=[1, 2, 0.5])
    assert loop.build_loss(recipe).class_weights == [1, 2, 0.5]


def test_weights_for_other_classes(tmp_path):
    with pytest.raises(ValueError, match=r"one number for each class. Received: .*for logits of 3"):
        tiny_training.run(tmp_path, class_weights=[1, 2])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SGD(l2=-1), r"`l2` must be a finite number at least 0. Received: l2=-1"),
        (lambda: SGD(float("nan")), r"`learning_rate` must be a finite .* Received: .*=nan"),
        (lambda: SGD(float("inf")), r"`learning_rate` must be a finite .* Received: .*=inf"),
        (lambda: SGD(-1), r"`learning_rate` must be a finite number at least 0. Received: .*=-1"),
        (lambda: SGD("fast"), r"`learning_rate` must be a finite .* Received: .*='fast'"),
        (lambda: SGD(momentum=1.5), r"`momentum` must be .* at most 1. Received: momentum=1.5"),
        (lambda: SGD(l2=float("inf")), r"`l2` must be a finite number .* Received: l2=inf"),
        (lambda: poly_decay(float("nan"), 0, 5), r"`start` must be .* Received: start=nan"),
        (lambda: poly_decay(0.1, -1e-4, 5), r"`end` must be .* Received: end=-0.0001"),
        (lambda: poly_decay(0.1, 0, 0), r"`steps` must be a positive int. Received: steps=0"),
        (lambda: cosine_decay(0, 0, 5), r"`start` must be a finite .* above 0. Received: start=0"),
        (lambda: cosine_decay(1, -1, 5), r"`end` must be a finite number .* Received: end=-1"),
        (lambda: cosine_decay(1, 2, 5), r"`end` must be .* at most 1.* Received: end=2"),
        (
            lambda: Recipe("a", optimizer="adamw", learning_rate=6e-5),
            r"from which the rate falls. Received: final_learning_rate=0.0001, learning_rate=6e-05",
        ),
        (lambda: Recipe("a", class_weights=(1, 0)), r"`class_weights` must be .* above 0"),
        (lambda: cosine_decay(1, 0, 5, 5), r"`warmup_steps` must be .* at most 4.* Received: .*=5"),
        (lambda: Recipe("a", warmup_steps=3), r"optimizer='adamw'. Received: warmup_steps=3, opt"),
        (
            lambda: Recipe("a", optimizer="adamw", warmup_steps=9, steps=9),
            r"fewer than the steps. Received: warmup_steps=9, steps=9. Lower",
        ),
        (lambda: SGD(nesterov=True), r"must be False. Received: nesterov=True. Use keras"),
        (lambda: Recipe("a", loss="x"), r"one of 'cross_entropy', 'ohem'. Received: l"),
        (lambda: tiny_training.run("x", devices="two"), r"one of 'one', 'all'. Received: devices"),
    ],
)
def test_wrong_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_figure_that_never_comes(tmp_path):
    model = tiny_training.build(tiny_training.recipe(tmp_path), tiny_training.CLASSES)
    model.compile("sgd", metrics=[])
    examples = [tiny_training.example(0)]
    with pytest.raises(ValueError, match=r"`monitor` .* Received: 'val_mean_iou', .* loss, val_lo"):
        fit(model, tiny_training.batches, tmp_path, 1, 1, validation=examples)


def test_data_that_ends(tmp_path):
    def finite(count):
        return lambda *at: itertools.islice(tiny_training.batches(*at), count)

    with pytest.raises(ValueError, match=r"`batches` must hold examples. Received: batches=\[\]"):
        tiny_training.run(tmp_path, data=lambda *at: [])
    with pytest.raises(ValueError, match=r"`validation` must hold examples. Received: "):
        train(tiny_training.recipe(tmp_path), 3, None, [], tiny_training.build)
    with pytest.raises(ValueError, match="must not end. Received: an end after step 3 of 10"):
        tiny_training.run(tmp_path, data=lambda *at: (batch for batch in finite(3)(*at)))


@pytest.mark.parametrize("learning_rate", [1e30])
def test_a_training_that_diverges_fails_and_keeps_its_files(tmp_path, learning_rate):
    model = tiny_training.build(tiny_training.recipe(tmp_path), 3)
    model.compile(SGD(learning_rate))
    with pytest.raises(FloatingPointError, match="must be finite. Received: "):
        fit(model, tiny_training.batches, tmp_path, steps=9, checkpoint_every=3)
    assert not list(tmp_path.glob("*.keras"))


def test_a_trained_model_is_not_replaced(tmp_path):
    (tmp_path / "model.keras").write_text("trained for weeks")
    with pytest.raises(ValueError, match=r"must be new, or hold .* with model.keras and without"):
        tiny_training.run(tmp_path)
    assert (tmp_path / "model.keras").read_text() == "trained for weeks"


@pytest.mark.once
def test_the_best_of_an_earlier_training_is_not_that_of_a_new_one(tmp_path):
    (tmp_path / "best.keras").write_text("of three other classes")
    (tmp_path / "best.json").write_text('{"val_mean_iou": 0.99}')
    tiny_training.run(tmp_path, steps=2)
    assert (tmp_path / "best.previous.keras").read_text() == "of three other classes"
    assert "0.99" in (tmp_path / "best.previous.json").read_text()
    assert "0.99" not in (tmp_path / "best.json").read_text()
    assert keras.saving.load_model(tmp_path / "best.keras").num_classes == 3


@pytest.mark.once
def test_two_trainings_of_one_output(tmp_path):
    code = f"""
from tests import tiny_training
tiny_training.run({str(tmp_path)!r}, steps=1)
"""
    with locked_folder(tmp_path):
        with pytest.raises(AssertionError) as error:
            run_python(code)
        found = (
            rf"no other process writes to. Received: output=.*in use by process {os.getpid()} on"
        )
        assert re.search(found, str(error.value))
    run_python(code)


def test_split_examples():
    examples = Examples(11, tiny_training.example, lambda i: f"image {i}", size=(16, 24))
    training, validation = split_examples(examples, 0.2, seed=3)
    names = [[part.name(i) for i in range(len(part))] for part in (training, validation)]
    assert len(names[0]) == 9 and len(names[1]) == 2
    assert sorted(names[0] + names[1]) == sorted(f"image {i}" for i in range(11))
    number = int(names[1][1].split()[1])
    np.testing.assert_array_equal(validation[1][0], tiny_training.example(number)[0])
    again = split_examples(examples, 0.2, seed=3)[1]
    assert [again.name(i) for i in range(2)] == names[1]
    others = [split_examples(examples, 0.2, seed)[1] for seed in range(5)]
    assert len({tuple(other.name(i) for i in range(2)) for other in others}) > 1
    assert [len(part) for part in split_examples(examples, 0.999)] == [1, 10]
    with pytest.raises(ValueError, match=r"`fraction` must be .*below 1. Received: fraction=1"):
        split_examples(examples, 1)
    with pytest.raises(ValueError, match=r"must be two or more. Received: 1 examples"):
        split_examples(examples[:1])


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"folder that can be written. Received: output='.*file'"):
        tiny_training.run(tmp_path / "file")


def test_a_recipe_from_dataset_to_network(tmp_path, monkeypatch, capsys):
    """The backbone's weights come from a file; without a learning rate they stay."""
    monkeypatch.setattr(signal_harbor, "SPLITS", {"train": 2, "test": 1})
    recipe = Recipe(
        dataset="signal_harbor",
        data_dir=str(tmp_path / "data"),
        output=str(tmp_path / "out"),
        preset="mmseg_dot_r1_ade20k",
        backbone="resnet18",
        weights=str(tmp_path / "backbone.weights.h5"),
        output_stride=32,
        head_channels=8,
        crop=(64, 64),
        batch=1,
        learning_rate=0.0,
        final_learning_rate=0.0,
        batch_norm="moving",
        mixed_precision="mixed_bfloat16",
        validation_size=(64, 64),
    )
    backbone = loop.build_model(dataclasses.replace(recipe, weights=None), 10).backbone
    backbone.save_weights(recipe.weights)
    flags = "--steps 1 --checkpoint-every 1 --validate-every 1 --drawn-images 1"
    model = main(recipe, "help", flags.split())
    assert model.num_classes == 10
    assert model.backbone.layers[-1].compute_dtype == "bfloat16"
    for weight, expected in zip(model.backbone.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(array(weight), array(expected))
    assert (tmp_path / "out/predictions/step_000001.png").exists()

    other = dataclasses.replace(recipe, backbone="resnet34", output=str(tmp_path / "other"))
    with pytest.raises(SystemExit) as stop:
        main(other, "help", flags.split())
    said = capsys.readouterr().err
    assert stop.value.code == 2 and len(said) < 1000
    assert re.search(r"of the same backbone. Received: .*shape=\(3, 3, 64", said)
    record = json.loads((tmp_path / "out/recipe.json").read_text())
    assert record["steps"] == 1 and record["crop"] == [64, 64]

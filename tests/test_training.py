"""The rules of the optimizer, batch norm on its moving statistics, recipes, and bad input."""

import csv
import dataclasses
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image

from keras_fsa.datasets import signal_harbor
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.metrics import MeanIoU
from keras_fsa.training import Recipe, batch_norm, checkpoint, loop, main
from keras_fsa.training.batch_norm import synchronize, use_moving_statistics
from keras_fsa.training.command import parse
from keras_fsa.training.devices import Devices
from keras_fsa.training.loop import fit_into
from keras_fsa.training.optimizer import SGD, poly_decay
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
        with pytest.raises(ValueError, match="that of tokens has not"):
            synchronize(normalised_model())


def test_fit_into_keeps_what_fits_and_shrinks_what_does_not(rng):
    image = rng.integers(0, 256, (5, 7, 3)).astype("uint8")
    mask = rng.integers(0, 9, (5, 7)).astype("uint8")
    examples = tf.data.Dataset.from_tensors((image, mask))
    (filled, labels), *_ = fit_into(examples, (11, 8)).as_numpy_iterator()
    np.testing.assert_array_equal(filled[:5, :7], image)
    np.testing.assert_array_equal(labels[:5, :7], mask)
    assert (filled[5:] == (124, 116, 104)).all() and (filled[:, 7:] == (124, 116, 104)).all()
    assert (labels[5:] == 255).all() and (labels[:, 7:] == 255).all()
    (small, labels), *_ = fit_into(examples, (11, 4)).as_numpy_iterator()
    assert small.shape == (11, 4, 3) and (labels != 255).sum() == 3 * 4


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
        drawn_pictures=2,
        tensorboard=not other,
        class_names=["one", "two", "three"],
    )
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [int(row["step"]) for row in rows] == [5, 10, 15, 20, 25, 30, 31]
    assert [bool(row["validation_mean_iou"]) for row in rows] == 5 * [False] + 2 * [True]
    # Hard pixels are others in each step, so their loss tells less than what is learnt.
    assert float(rows[-1]["loss"]) < (1 if other else 0.7) * float(rows[0]["loss"])
    assert float(rows[0]["mean_iou"]) < 0.3 and float(rows[-1]["validation_mean_iou"]) > 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.keras",
        "checkpoint.npz",
        "history.csv",
        "model.keras",
        "predictions",
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
    picture, _ = tiny_training.example(0)
    np.testing.assert_array_equal(
        array(again(picture[None])), array(model(picture[None])), strict=True
    )
    assert all(layer.trainable for layer in batch_norm.batch_norm_layers(again))


def check_tensorboard(folder, rows):
    """The figures of the rows are there, by step."""
    found = {}
    for path in folder.rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                name = f"{path.parent.name} {value.tag}"
                found.setdefault(name, {})[event.step] = float(tf.make_ndarray(value.tensor))
    for name, column in (
        ("train epoch_loss", "loss"),
        ("train epoch_mean_iou", "mean_iou"),
        ("train epoch_learning_rate", "learning_rate"),
        ("validation epoch_mean_iou", "validation_mean_iou"),
    ):
        expected = {int(row["step"]): float(row[column]) for row in rows if row[column]}
        assert found[name] == pytest.approx(expected, rel=1e-6)


def test_the_best_network_is_kept(tmp_path, monkeypatch):
    """Of validations that score 0.2, 0.7 and 0.5, over a restart after the second."""
    scores = {2: 0.2, 4: 0.7, 6: 0.5}
    weights = {}
    monkeypatch.setattr(MeanIoU, "result", lambda self: scores.get(step[0], 0.0))
    end, step = loop._Progress.on_train_batch_end, [0]

    def record(self, batch, logs=None):
        end(self, batch, logs)
        step[0] = self.step
        if self.step % 2 == 0:
            weights[self.step] = [array(w) for w in self.model.weights]
        if stop and self.step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Progress, "on_train_batch_end", record)
    for stop in (True, False):
        try:
            tiny_training.run(tmp_path, steps=6, validate_every=2, batch_norm="moving")
        except KeyboardInterrupt:
            assert stop
    for name, number in (("best", 4), ("model", 6)):
        model = keras.saving.load_model(tmp_path / f"{name}.keras")
        assert all(layer.trainable for layer in batch_norm.batch_norm_layers(model))
        for weight, expected in zip(model.weights, weights[number], strict=True):
            np.testing.assert_array_equal(array(weight), expected)


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


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"package 'tensorboard'.*pip install"):
        tiny_training.run(tmp_path, tensorboard=True)


def test_a_disk_without_room(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=20_000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"take 0\.0 GB of disk. Received: output='.*Make room"):
        tiny_training.run(tmp_path, steps=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cross_entropy", "ohem"])
def test_class_weights_reach_the_loss(name):
    recipe = tiny_training.recipe("out", loss=name, class_weights=[1, 2, 0.5])
    assert loop._loss(recipe).class_weights == [1, 2, 0.5]


def test_weights_for_other_classes(tmp_path):
    with pytest.raises(ValueError, match=r"one number for each class. Received: .*for logits of 3"):
        tiny_training.run(tmp_path, class_weights=[1, 2])


def test_flags_override_a_recipe():
    recipe = Recipe("tiny", output="out", crop=(849, 849), weights="imagenet")
    weighted = parse(recipe, "help", ["--class-weights", "1", "0.5", "2", "3"])
    assert weighted == dataclasses.replace(recipe, class_weights=[1.0, 0.5, 2.0, 3.0])
    assert parse(weighted, "help", ["--class-weights", "none"]) == recipe
    flags = "--crop 65 --scales 1 1 --weights none --batch 2 --align-corners --base-size 64 128"
    found = parse(recipe, "help", flags.split())
    assert found == dataclasses.replace(
        recipe,
        crop=(65, 65),
        scales=(1.0, 1.0),
        weights=None,
        batch=2,
        align_corners=True,
        base_size=(64, 128),
    )
    assert parse(recipe, "help", []) == recipe


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--loss hinge", "invalid choice: 'hinge'"),
        ("--batch 0", "`batch` must be a positive int. Received: batch=0"),
        ("--crop 1 2 3", "--crop takes one number or two, not 3"),
        ("--validate-every 7", "multiple of `checkpoint_every`. Received: validate_every=7"),
    ],
)
def test_wrong_flags(capsys, flags, message):
    with pytest.raises(SystemExit):
        parse(Recipe("tiny", output="out"), "help", flags.split())
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SGD(l2=-1), r"`l2` must be at least 0. Received: l2=-1. The usual"),
        (lambda: SGD(nesterov=True), r"must be False. Received: nesterov=True. Use keras"),
        (lambda: Recipe("a", loss="x"), r"one of 'cross_entropy', 'ohem'. Received: l"),
        (lambda: tiny_training.run("x", devices="two"), r"one of 'one', 'all'. Received: devices"),
    ],
)
def test_wrong_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_data_that_ends(tmp_path):
    with pytest.raises(ValueError, match="need examples. Received: batches.step. or validation of"):
        tiny_training.run(tmp_path, data=lambda *at: tiny_training.batches(*at).take(0))
    with pytest.raises(ValueError, match="must be endless. Received: an end behind step 3 of 10"):
        tiny_training.run(tmp_path, data=lambda *at: tiny_training.batches(*at).take(3))


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"folder that can be written. Received: output='.*file'"):
        tiny_training.run(tmp_path / "file")


def test_a_recipe_from_data_set_to_network(tmp_path, monkeypatch):
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
    flags = "--steps 1 --checkpoint-every 1 --validate-every 1 --drawn-pictures 1"
    model = main(recipe, "help", flags.split())
    assert model.num_classes == 10
    assert model.backbone.layers[-1].compute_dtype == "bfloat16"
    for weight, expected in zip(model.backbone.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(array(weight), array(expected))
    assert (tmp_path / "out/predictions/step_000001.png").exists()

    other = dataclasses.replace(recipe, backbone="resnet34", output=str(tmp_path / "other"))
    with pytest.raises(
        ValueError, match=r"of the same backbone. Received: .*shape=\(3, 3, 64"
    ) as info:
        main(other, "help", flags.split())
    assert len(str(info.value)) < 1000

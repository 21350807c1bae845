"""Rates of single weights, averages of weights, accumulated gradients, early stops: with resume."""

import json
import re

import keras
import numpy as np
import pytest
from PIL import Image

import keras_fsa
from keras_fsa.commands import train
from keras_fsa.datasets.examples import Examples
from keras_fsa.training import fit
from keras_fsa.training.batch_norm import use_moving_statistics
from keras_fsa.training.callbacks import StopEarly
from keras_fsa.training.memory import step_memory
from keras_fsa.training.optimizer import SGD, AdamW, backbone_rates
from tests import tiny_training as tiny
from tests.helpers import BACKEND, array
from tests.test_classes import folders  # noqa: F401


def adam(w, gradients, rate, decay, b1=0.9, b2=0.999, factor=1.0):
    """Decoupled weight decay (arXiv:1711.05101), with bias correction as in Keras."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        w = w - rate * decay * w
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        alpha = factor * rate * np.sqrt(1 - b2**t) / (1 - b1**t)
        w = w - alpha * m / (np.sqrt(v) + 1e-7)
    return w


def momentum(w, gradients, rate, l2, factor=1.0):
    m = 0.0
    for g in gradients:
        m = 0.9 * m + g + l2 * w
        w = w - factor * rate * m
    return w


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_rates(rng, kind):
    start = rng.standard_normal((2, 3))
    gradients = rng.standard_normal((4, 2, 3)).astype("float32")
    variables = [keras.Variable(start, name=f"weight_{i}") for i in range(2)]
    rates = {variables[1].path: 0.25}
    if kind == "sgd":
        optimizer, reference = SGD(0.1, l2=0.01, rates=rates), momentum
    else:
        optimizer, reference = AdamW(0.1, weight_decay=0.01, rates=rates), adam
    optimizer = type(optimizer).from_config(optimizer.get_config())
    assert optimizer.rates == rates
    optimizer.build(variables)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)] * 2)
    for variable, factor in zip(variables, (1.0, 0.25), strict=True):
        want = reference(start, gradients.astype("float64"), 0.1, 0.01, factor=factor)
        # Four steps of float32. Adam's sqrt(1 - 0.999 ** t) is off by 1e-5 of itself there, more
        # where an engine's power is; each step is about 0.1.
        atol = 5e-7 if kind == "sgd" else 4 * 0.1 * 2e-5
        np.testing.assert_allclose(array(variable), want, rtol=5e-6, atol=atol)
    assert "rates" not in type(optimizer)(0.1).get_config()


def test_wrong_rates():
    for wrong in (-1, float("nan"), "x"):
        with pytest.raises(ValueError, match=r"`rates\['a'\]` must be a finite number at least 0"):
            SGD(rates={"a": wrong})
    with pytest.raises(ValueError, match="`weight_decay` must be .* at least 0"):
        AdamW(weight_decay=-1)


def network():
    keras.utils.set_random_seed(3)
    return keras_fsa.FsaNet(
        tiny.CLASSES, tiny.backbone(), frequencies=2, head_channels=6, normalization="imagenet"
    )


def test_backbone_rates():
    model = network()
    rates = backbone_rates(model, 0.0)
    assert set(rates) == {variable.path for variable in model.backbone.trainable_variables}
    model.compile(SGD(0.1, rates=rates))
    before = [array(v).copy() for v in model.trainable_variables]
    images, masks = next(tiny.batches(0))
    model.fit(images, masks, verbose=0)
    own = {id(v) for v in model.backbone.trainable_variables}
    for variable, old in zip(model.trainable_variables, before, strict=True):
        if id(variable) in own:
            np.testing.assert_array_equal(array(variable), old)
    moved = [
        np.any(array(v) != old)
        for v, old in zip(model.trainable_variables, before, strict=True)
        if id(v) not in own
    ]
    assert np.mean(moved) > 0.7
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 8, padding="same", name="before_conv", use_bias=False)(images)
    model = keras_fsa.FsaNet(
        2, keras.Model(images, {"stage4": x, "stage5": x}), frequencies=1, head_channels=4,
        normalization="imagenet",
    )  # fmt: skip
    with pytest.raises(ValueError, match="must have paths of their own. Received: before_conv/ker"):
        backbone_rates(model, 0.1)


VALIDATION = Examples(2, lambda number: tiny.example(1000 + number), size=tiny.CROP)


def run(output, steps=6, stop_at=None, rate=0.05, patience=None, frozen=False):
    """A training with rates, averages and accumulation; killed before a step, where asked."""
    model = network()
    model.backbone.trainable = not frozen
    # Figures stand still where the rate is zero.
    use_moving_statistics(model, rate == 0)
    model.compile(
        SGD(
            rate, rates=backbone_rates(model, 0.5), use_ema=True, ema_momentum=0.6,
            gradient_accumulation_steps=2,
        )
    )  # fmt: skip

    def batches(step, part):
        for number, pair in enumerate(tiny.batches(step, part), start=step):
            # Batches are read ahead.
            if stop_at is not None and number >= stop_at + 3:
                raise KeyboardInterrupt
            yield pair

    fit(model, batches, output, steps, checkpoint_every=1, validation=VALIDATION, patience=patience)
    return model


def stored(output):
    with np.load(output / "checkpoint.npz") as file:
        header = json.loads(file["header"].tobytes())
        count = len(header["weights"])
        values = [file[str(i)] for i in range(count + len(header["optimizer"]))]
    return header, dict(enumerate(values))


def weights(path):
    model = keras.saving.load_model(path, compile=False)
    return [array(v) for v in model.trainable_variables]


def test_averages_and_resume(tmp_path):
    model = run(tmp_path / "whole")
    last = [array(v) for v in model.trainable_variables]
    for value, own in zip(weights(tmp_path / "whole/model.keras"), last, strict=True):
        np.testing.assert_array_equal(value, own)
    # In the checkpoint weights and averages are apart; the model has the averages.
    header, values = stored(tmp_path / "whole")
    names = [name for _, name, _ in header["weights"]]
    numbers = [i for i, name in enumerate(names) if not name.startswith(("moving", "seed"))]
    raw = [values[i] for i in numbers if values[i].dtype.kind == "f"]
    assert len(raw) >= len(last)
    everything = list(values.values())
    for own in last:
        assert any(np.array_equal(own, value) for value in everything)
    assert sum(any(np.array_equal(own, value) for value in raw) for own in last) < len(last) / 2
    # The figures in the history are those of the averages.
    scored = network()
    scored.load_weights(tmp_path / "whole/model.keras")
    scored.compile()
    expected = [
        scored.evaluate(*(part[None] for part in VALIDATION[i]), verbose=0, return_dict=True)
        for i in range(2)
    ]
    loss = np.mean([figures["loss"] for figures in expected])
    np.testing.assert_allclose(header["history"][-1]["val_loss"], loss, rtol=1e-4)
    # Called again it changes nothing, and gives the averages.
    again = run(tmp_path / "whole")
    for variable, own in zip(again.trainable_variables, last, strict=True):
        np.testing.assert_array_equal(array(variable), own)
    # Killed between two halves of an accumulated step, it goes on to the same weights.
    with pytest.raises(BaseException):  # noqa: B017
        run(tmp_path / "parts", stop_at=1)
    done = stored(tmp_path / "parts")[0]["step"]
    assert 0 < done < 6
    resumed = run(tmp_path / "parts")
    for variable, own in zip(resumed.trainable_variables, last, strict=True):
        # JAX and TensorFlow may fuse a step of another compilation in another order.
        np.testing.assert_allclose(array(variable), own, rtol=1e-5, atol=1e-6)


def test_a_frozen_backbone_stays(tmp_path):
    """Also behind the saves that a training makes, and when it resumes."""
    model = run(tmp_path / "whole", frozen=True)
    assert not model.backbone.trainable_variables
    for variable, old in zip(model.backbone.variables, network().backbone.variables, strict=True):
        np.testing.assert_array_equal(array(variable), array(old))
    saved = keras.saving.load_model(tmp_path / "whole/model.keras")
    assert not saved.backbone.trainable_variables and saved.head.trainable_variables
    with pytest.raises(BaseException):  # noqa: B017
        run(tmp_path / "parts", stop_at=2, frozen=True)
    assert 0 < stored(tmp_path / "parts")[0]["step"] < 6
    resumed = run(tmp_path / "parts", frozen=True)
    for variable, own in zip(resumed.variables, model.variables, strict=True):
        # As above, of another compilation.
        np.testing.assert_allclose(array(variable), array(own), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("moving", [True, False])
def test_moving_statistics_leave_what_is_frozen(moving):
    model = network()
    model.backbone.trainable = False
    learned = len(model.trainable_variables)
    use_moving_statistics(model, moving)
    assert not model.backbone.trainable_variables
    assert len(model.trainable_variables) == learned


def test_early_stop(tmp_path):
    model = run(tmp_path, steps=9, rate=0.0, patience=2)
    header, _ = stored(tmp_path)
    assert header["step"] == 3 and len(header["history"]) == 3
    assert (tmp_path / "model.keras").exists() and model.stop_training
    run(tmp_path, steps=9, rate=0.0, patience=2)
    assert stored(tmp_path)[0]["step"] == 3
    with pytest.raises(ValueError, match="`patience` needs a validation. Received: patience=2"):
        fit(model, None, tmp_path, 9, patience=2)


@pytest.mark.parametrize(
    ("values", "over"),
    [
        ([], False),
        ([0.5, 0.4], False),
        ([0.5, 0.4, 0.5], True),
        ([0.5, 0.4, 0.6], False),
        ([float("nan"), 0.4, 0.3], False),
        ([0.4, float("nan"), 0.3], True),
    ],
)
def test_patience(values, over):
    rows = [{"step": 1}, *({"val_mean_iou": value} for value in values)]
    assert StopEarly("val_mean_iou", 2, rows).is_over() is over


def test_memory_of_a_step():
    """Counted by hand: layer by layer, at output strides 4 and 8."""
    model = network()
    model.compile(SGD(0.1))
    found = step_memory(model, (16, 24), 2)
    fine, coarse = 2 * 4 * 6, 2 * 2 * 3
    backbone = 3 * 8 * (fine + coarse)
    # Three convolutions of three layers, attention, dropout; the concatenation; logits.
    head = coarse * (6 * (3 * 3 + 1 + 1) + (8 + 6) + 3)
    auxiliary = fine * (3 * 3 + 3 + 3)
    at_image_size = 2 * 2 * (2 * 16 * 24 * 3)
    assert found["maps"] == 4 * (backbone + head + auxiliary + at_image_size)
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    everything = sum(int(np.prod(v.shape)) for v in model.variables)
    state = sum(int(np.prod(v.shape)) for v in model.optimizer.variables)
    assert trained < state and found["gradients"] == 4 * trained
    assert found["weights"] == 4 * (everything + state)
    assert found["peak"] == found["weights"] + max(found["maps"], found["gradients"])
    with pytest.raises(ValueError, match="`size` must be 2 positive ints"):
        step_memory(model, (16, 0), 2)


@pytest.mark.once
def test_memory_of_nested_models():
    """A backbone in a backbone, or in a Sequential, counts as its layers do."""
    flat = network()
    images = keras.Input((None, None, 3))
    inner = keras.Sequential([keras.layers.Identity(), keras.layers.Rescaling(1.0)])
    nested = keras.Model(images, keras.models.clone_model(flat.backbone)(inner(images)))
    arguments = {"head_channels": 6, "frequencies": 2, "normalization": "imagenet"}
    sizes = []
    for backbone in (flat.backbone, nested):
        model = keras_fsa.FsaNet(3, backbone, **arguments)
        model.compile(SGD(0.1))
        sizes.append(step_memory(model, (16, 24), 2)["maps"])
    # And the image, twice.
    assert sizes[1] - sizes[0] == 4 * 2 * (2 * 16 * 24 * 3)


def large(width, first):
    """A network whose memory is that of its maps, where the first layers are wide."""
    keras.utils.set_random_seed(3)
    x = images = keras.Input((None, None, 3))
    for _ in range(3):
        x = keras.layers.Conv2D(first, 3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Conv2D(width, 3, 8, padding="same")(x)
    return keras_fsa.FsaNet(
        2, keras.Model(images, {"stage5": x}), frequencies=2, head_channels=width // 2,
        auxiliary_loss_weight=0, normalization="imagenet",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("width", "first", "size", "frozen"),
    [(8, 24, (64, 96), False), (256, 1, (16, 24), False), (64, 8, (64, 96), True)],
)
def test_memory_of_a_step_as_measured(rng, width, first, size, frozen):
    """Maps, then gradients make the peak. It is what the allocator, or XLA's plan, says."""
    model = large(width, first)
    model.backbone.trainable = not frozen
    model.compile(SGD(0.1), metrics=[])
    found = step_memory(model, size, 4)
    assert (found["maps"] > found["gradients"]) is (first > 1)
    images = rng.integers(0, 256, (4, *size, 3)).astype("uint8")
    masks = rng.integers(0, 2, (4, *size)).astype("uint8")
    if BACKEND == "torch":
        peak = torch_peak(model, images, masks)
    elif BACKEND == "jax" and first == 24:
        # The others would compile for long; a compiler frees maps of a frozen backbone at once.
        peak = jax_peak(model, images, masks)
    else:
        peak = None  # TensorFlow has no such count on a CPU.
    if peak is not None:
        ratio = (found["weights"] + peak) / found["peak"]
        assert 0.8 < ratio < 1.6, ratio


def torch_peak(model, images, masks):
    """Bytes of a step at its peak, beyond the weights."""
    import torch

    model.train_on_batch(images, masks)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        model.train_on_batch(images, masks)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(max(np.cumsum([0] + [event.nbytes() for event in events])))


def jax_peak(model, images, masks):
    import jax

    parts = ("trainable", "non_trainable", "optimizer", "metrics")
    model.train_on_batch(images, masks)
    state = model._get_jax_state(**{f"{part}_variables": True for part in parts})
    step = jax.jit(model.train_step, donate_argnums=0).lower(state, (images, masks)).compile()
    plan = step.memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes


def test_by_the_command_line(folders, capsys):  # noqa: F811
    optimizer = "adamw"
    tiny.backbone().save(folders / "backbone.keras")
    flags = [
        "--images", folders / "images", "--masks", folders / "binary", "--num-classes", 1,
        "--backbone", folders / "backbone.keras", "--normalization", "imagenet", "--size", 16, 24,
        "--batch", 2, "--epochs", 2, "--head-channels", 4, "--frequencies", 2, "--ema", 0.5,
        "--accumulate", 2, "--backbone-rate", 0.1, "--early-stopping", 3, "--optimizer", optimizer,
        "--loss", "cross_entropy", "dice", "boundary", "--output", folders / "out",
    ]  # fmt: skip
    train.main([str(flag) for flag in flags], "test")
    said = r"A step takes about (.*) MB on .*: (.*) MB for wei.* of (.*) MB for the .* and (.*) MB"
    peak, weights, maps, gradients = map(float, re.search(said, capsys.readouterr().out).groups())
    assert peak == pytest.approx(weights + max(maps, gradients), rel=0.01)
    recipe = json.loads((folders / "out/recipe.json").read_text())
    assert recipe["loss"] == ["cross_entropy", "dice", "boundary"] and recipe["ema"] == 0.5
    model = keras.saving.load_model(folders / "out/model.keras")
    assert isinstance(model.optimizer, AdamW)
    assert set(model.optimizer.rates.values()) == {0.1}
    flags[flags.index("--accumulate") + 1] = 99
    with pytest.raises(SystemExit):
        train.main([str(flag) for flag in flags], "test")
    assert "`--accumulate` must be at most the number of steps" in capsys.readouterr().err


@pytest.mark.once
def test_a_trained_model_by_the_command_line(folders):  # noqa: F811
    backbone = tiny.backbone()
    stages = {**backbone.output, "stage3": backbone.get_layer("conv4").output}
    keras.Model(backbone.input, stages).save(folders / "backbone.keras")
    data = ["--images", folders / "images", "--size", 16, 24, "--batch", 2, "--epochs", 2]
    first = [
        "--masks", folders / "binary", "--num-classes", 1, "--backbone", folders / "backbone.keras",
        "--normalization", "imagenet", "--head-channels", 4, "--frequencies", 2, "--recurrence", 1,
        "--low-level", "stage3", "--auxiliary-loss-weight", 0, "--learning-rate", 0.1,
        "--final-learning-rate", 0.05, "--weight-decay", 0.001, "--devices", "all",
        "--mixed-precision", "mixed_bfloat16", "--tensorboard", "--cache-gigabytes", 0,
        "--output", folders / "first",
    ]  # fmt: skip
    train.main([str(flag) for flag in data + first], "test")
    model = keras.saving.load_model(folders / "first/best.keras")
    assert model.low_level == "stage3" and model.recurrence == 1 and model.auxiliary_head is None
    assert model.dtype_policy.name == "mixed_bfloat16" and any(folders.glob("first/**/events*"))
    last = keras.saving.load_model(folders / "first/model.keras").optimizer
    assert 0.05 <= float(array(last.learning_rate)) < 0.1 and last.l2 == 0.001
    second = [
        "--masks", folders / "masks", "--num-classes", 2, "--activation", "sigmoid",
        "--init", folders / "first/best.keras", "--freeze-backbone", "--output", folders / "second",
    ]  # fmt: skip
    train.main([str(flag) for flag in data + second], "test")
    tuned = keras.saving.load_model(folders / "second/model.keras")
    assert tuned.num_classes == 2 and tuned.low_level == "stage3"
    assert tuned.dtype_policy.name == "float32"
    for new, old in zip(tuned.backbone.variables, model.backbone.variables, strict=True):
        np.testing.assert_array_equal(array(new), array(old))
    attention = [one.attention_layer().get_weights() for one in (tuned, model)]
    assert any(np.any(new != old) for new, old in zip(*attention, strict=True))


def test_class_weights(folders, monkeypatch, capsys):  # noqa: F811
    """Balanced ones are counted and said; the loss has them, or the numbers that are given."""
    tiny.backbone().save(folders / "backbone.keras")
    data = ["--num-classes", 3, "--ignore-label", 2]
    for part in ("images", "masks"):
        flag, source = f"--{part}", folders / {"images": "images", "masks": "binary"}[part]
        data += [flag, source, f"--val-{part}", source]
    flags = [
        *data, "--backbone", folders / "backbone.keras", "--normalization", "imagenet",
        "--size", 16, 24, "--batch", 6, "--epochs", 1, "--head-channels", 4, "--frequencies", 2,
    ]  # fmt: skip
    masks = [np.asarray(Image.open(path)) for path in (folders / "binary").iterdir()]
    for mask, path in zip(masks, (folders / "binary").iterdir(), strict=True):
        Image.fromarray(np.where(mask == 255, 2, mask).astype("uint8")).save(path)
    share = []
    for c in range(2):
        having = np.stack([mask for mask in masks if (mask == c).any()])
        share.append((having == c).sum() / (having != 255).sum())
    expected = [*(np.median(share) / share), 1]
    kinds = ["cross_entropy", "dice", "focal", "lovasz", "boundary"]
    flags += ["--loss", *kinds, "--output", folders / "out", "--class-weights"]
    train.main([*map(str, flags), "balanced"], "test")
    loss = keras.saving.load_model(folders / "out/model.keras").loss
    assert "Class weights: class 0 " in capsys.readouterr().out
    for part in loss.losses:
        # Four digits are kept.
        np.testing.assert_allclose(part.class_weights, expected, rtol=5e-4)
    assert len(loss.losses) == 5
    # Numbers are those of the loss.
    fitted = []
    monkeypatch.setattr("keras_fsa.training.fit", lambda model, *_, **__: fitted.append(model))
    monkeypatch.setattr(train, "_report", lambda *_: None)
    train.main([*map(str, flags), "2", "0.5", "1"], "test")
    assert "Class weights" not in capsys.readouterr().out
    assert [part.class_weights for part in fitted[0].loss.losses] == [[2, 0.5, 1]] * 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("1 2", "`--class-weights` must be one for each class. Received: 2 numbers"),
        ("1 2 0", "`--class-weights` must be a finite number above 0"),
        (
            "balanced --activation sigmoid",
            "`--class-weights` can be balanced where a pixel has one",
        ),
        ("balance", "`--class-weights` must be none|{balanced}"),
    ],
)
def test_wrong_class_weights(folders, capsys, words, message):  # noqa: F811
    flags = ["--images", folders / "images", "--masks", folders / "binary", "--num-classes", 3]
    with pytest.raises(SystemExit) as stop:
        train.main([*map(str, flags), "--class-weights", *words.split()], "test")
    assert stop.value.code == 2 and message in capsys.readouterr().err

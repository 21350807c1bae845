"""The harness of the CamVid runs and its experiments, on a tiny dataset in the true layout."""

import dataclasses
import itertools
import json

import keras
import numpy as np
import pytest
from PIL import Image

import keras_fsa
from benchmarks import (
    camvid,
    experiment,
    light,
    results,
    scoring,
    sections,
    sizes,
    truncation,
    windows,
)
from keras_fsa.datasets import load
from keras_fsa.datasets.examples import Examples
from keras_fsa.inference import class_map
from keras_fsa.resize import resize_bilinear
from keras_fsa.training.batch_norm import batch_norm_layers
from tests.helpers import array, randomize
from tests.tiny_training import backbone

pytestmark = pytest.mark.once

SIZE = (64, 96)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A folder of CamVid, and a recipe of two steps on it."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 2)):
        for kind in (split, f"{split}annot"):
            (tmp_path / "CamVid" / kind).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (*SIZE, 3)).astype("uint8")
            Image.fromarray(image).save(tmp_path / f"CamVid/{split}/{i}.png")
            mask = rng.integers(0, 12, SIZE).astype("uint8")
            Image.fromarray(mask).save(tmp_path / f"CamVid/{split}annot/{i}.png")
    recipe = dataclasses.replace(
        camvid.RECIPE,
        crop=(32, 48),
        batch=2,
        steps=2,
        warmup_steps=1,
        head_channels=8,
        frequencies=2,
        low_level=None,
        checkpoint_every=1,
        validate_every=1,
        drawn_images=None,
        tensorboard=False,
    )
    monkeypatch.setattr(camvid, "RECIPE", recipe)
    return tmp_path


def tiny():
    return {"backbone": backbone(), "backbone_weights": None, "output_stride": None}


def test_a_run_and_its_page(data_dir, monkeypatch, capsys):
    """Trained, scored, listed, drawn; given again, it is scored anew and not trained."""
    run = camvid.Run("tiny", network=tiny, share=0.5)
    monkeypatch.setitem(camvid.RUNS, "tiny", run)
    flags = ["--run", "tiny", "--seed", "1", "--data-dir", str(data_dir)]
    folder = data_dir / "results"
    flags += ["--output", str(data_dir / "runs"), "--results", str(folder / "camvid")]
    camvid.main(flags)
    file = folder / "camvid/tiny_seed1.json"
    result = json.loads(file.read_text())
    assert result["finished"] and result["memory"] > 1e7 and result["seed"] == 1
    assert result["steps_done"] == 2
    assert result["settings"]["share_of_images"] == 0.5 and "data_dir" not in result["settings"]
    assert str(data_dir) not in file.read_text()

    model = camvid.open_model(data_dir / "runs/tiny_seed1/best.keras")
    examples = camvid.load("camvid", "val", str(data_dir))
    again = scoring.score(
        lambda image: class_map(model, image), examples, list(result["scores"]["classes"])
    )
    assert again == result["scores"] and again["images"] == 2
    best = max(result["validations"].values())
    assert again["mean_iou"] == pytest.approx(best, abs=1e-3)
    assert result["validations"][str(result["step"])] == best

    again = camvid.Run("again", network=tiny, start="tiny")
    recipe = camvid.recipe_of(again, 1, "none", data_dir / "runs/again_seed1")
    begun = camvid.build(again, recipe, 11)
    for value, weight in zip(model.get_weights(), begun.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, value)

    weights = (data_dir / "runs/tiny_seed1/model.keras").read_bytes()
    camvid.main([*flags, "--score"])
    assert (data_dir / "runs/tiny_seed1/model.keras").read_bytes() == weights
    result = json.loads(file.read_text())
    assert result["memory"] is None
    file.write_text(json.dumps({**result, "finished": False}))
    capsys.readouterr()
    camvid.main(["--list", "--results", str(folder / "camvid")])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny")]
    assert line.split()[1:4] == ["-", f"{result['scores']['mean_iou']:.3f}*", "-"]

    monkeypatch.setitem(camvid.RUNS, "tiny", dataclasses.replace(run, start="what is not there"))
    camvid.main(["--time", "--results", str(folder / "camvid")])
    seconds = json.loads((folder / "camvid/steps.json").read_text())["seconds"]
    assert list(seconds) == ["tiny"] and seconds["tiny"] > 0

    page = results.draw("{{ camvid }}\n{{ camvid_classes }}", folder)
    scores = [f"{result['scores'][name]:.3f}" for name in ("mean_iou", "mean_boundary_f")]
    assert f"| `tiny` | tiny | 1 | {' | '.join(scores)} | {seconds['tiny']:.2f} |" in page
    assert "`tiny_seed1` is not at its end" in page
    assert "`tiny` (0, 2)" in page and "`none` (0, 1, 2)" in page
    ious = [f"{label['iou']:.3f}" for label in result["scores"]["classes"].values()]
    assert f"| tiny | {' | '.join(ious)} |" in page


def test_runs_change_what_they_say(tmp_path):
    layers = {}
    for name in ("none", "regular", "frequency", "linear_softmax", "all_frequencies"):
        run = camvid.RUNS[name]
        assert not run.gain
        recipe = camvid.recipe_of(run, 2, "data", tmp_path)
        assert (recipe.seed, recipe.steps, recipe.crop) == (2, 1380, (360, 480))
        small = dataclasses.replace(recipe, low_level=None, head_channels=8, weights=None)
        network = {"backbone": backbone(), "normalization": "imagenet", "output_stride": None}
        model = camvid.build_model(small, 11, **network, **run.network())
        layers[name] = model.attention_layer()
    assert layers["none"] is None
    assert isinstance(layers["regular"], keras_fsa.layers.SpatialSelfAttention)
    assert layers["regular"].affinity == "softmax"
    assert (layers["frequency"].affinity, layers["frequency"].frequencies) == ("dot_product", 8)
    assert layers["linear_softmax"].affinity == "linear_softmax"
    assert layers["all_frequencies"].frequencies == (23, 30)
    assert len({id(layer) for layer in layers.values()}) == 5


def test_scores_by_hand():
    """Two halves, their border moved: boundaries agree within three pixels, and not within four."""
    columns = np.arange(40)[None].repeat(20, 0)
    mask = (columns >= 20).astype("uint8")
    for moved, boundary in ((3, 1.0), (4, 0.0)):
        examples = [(mask, mask), (mask, mask)]
        found = scoring.score(lambda _, at=20 + moved: columns >= at, examples, ("left", "right"))
        ious = [20 / (20 + moved), (20 - moved) / 20]
        assert [found["classes"][name]["iou"] for name in ("left", "right")] == ious
        assert found["mean_iou"] == pytest.approx(np.mean(ious))
        assert found["mean_boundary_f"] == boundary and found["images"] == 2


def test_a_share_of_the_images(monkeypatch):
    chosen = []

    def train_recipe(recipe, build, choose):
        chosen.append(choose(range(367)))

    monkeypatch.setattr(camvid, "train_recipe", train_recipe)
    for name in ("few10_none", "few25_none", "none"):
        camvid.train(camvid.RUNS[name], camvid.RECIPE)
    assert chosen == [range(0, 367, 10), range(0, 367, 4), range(367)]


def test_a_gain_starts_where_a_run_says(tmp_path):
    run = camvid.Run("tiny", network=tiny, gain=0.5)
    recipe = dataclasses.replace(camvid.recipe_of(run, 0, "none", tmp_path), low_level=None)
    assert float(array(camvid.build(run, recipe, 11).attention_layer().gain)) == 0.5
    assert camvid.RUNS["cut3_gain_regular"].gain == 1 and "cut3_gain_none" not in camvid.RUNS


@pytest.mark.parametrize("affinity", [None, "linear_softmax"])
def test_a_map_of_positions(rng, tmp_path, affinity):
    """Its tokens are those of what is added, at any size, and it reloads."""
    layer = camvid.positioned(affinity)()["attention"]
    x = keras.Input((None, None, 8))
    model = keras.Model(x, layer(x))
    layer.tokens.assign(rng.standard_normal((64, 8)))
    images = rng.standard_normal((1, 23, 16, 8)).astype("float32")
    added = array(model(images)) - images
    tokens = array(keras_fsa.spectral.analysis(added, 8))[0] / (23 * 16) ** 0.5
    np.testing.assert_allclose(tokens, array(layer.tokens), atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = camvid.open_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(loaded(images)), array(model(images)), atol=1e-5)


def test_images_at_twice_their_size(rng):
    """The features are those of the doubled image, also in a graph that knows no size."""
    found = camvid.doubled("stage2")()["backbone"]
    backbone = camvid.build_backbone(
        "efficientnet_lite0", (None, None, 3), 16, None, "imagenet", tuple(found.output)
    )
    for size in ((30, 46), (31, 47), (33, 48)):  # from the second on TensorFlow takes any
        images = rng.standard_normal((1, *size, 3)).astype("float32")
        features = found.predict_on_batch(images)
        assert features["stage2"].shape == (1, -(-size[0] // 2), -(-size[1] // 2), 24)
        for stage, expected in backbone(resize_bilinear(images, *(2 * n for n in size))).items():
            scale = np.abs(array(expected)).max()
            np.testing.assert_allclose(features[stage], array(expected), atol=1e-5 * scale)


@pytest.fixture(scope="module")
def network():
    """A network of a small field of view, at strides 4 and 8, whose attention does something."""
    keras.utils.set_random_seed(0)
    images = keras.Input((None, None, 3))
    stage4 = keras.layers.Conv2D(6, 3, 4, "same", activation="relu")(images)
    stage5 = keras.layers.Conv2D(6, 3, 2, "same", activation="relu")(stage4)
    features = {"stage3": stage4, "stage4": stage4, "stage5": stage5}
    model = keras_fsa.FsaNet(
        3,
        keras.Model(images, features),
        frequencies=3,
        head_channels=8,
        low_level="stage3",
        auxiliary_loss_weight=0,
        normalization="imagenet",
    )
    model.attention_layer().gain.assign(2.0)
    return model


@pytest.mark.parametrize("window", [32, 40, 48])
def test_joined_features_of_windows(network, window):
    """Where the margin holds the backbone's field of view, it is the whole image's prediction."""
    image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3)).astype("uint8")[:, :-4]
    maps = windows.Features(network)(image, window)
    whole = network.backbone(network.normalize(image[None]))
    for stage in ("stage3", "stage5"):
        np.testing.assert_allclose(maps[stage], array(whole[stage]), atol=1e-5)
    ids = windows.with_joined_features(network, image, window)
    assert (ids == class_map(network, image)).mean() > 0.999


@pytest.mark.parametrize(("size", "window"), [(360, 96), (480, 128), (90, 96), (97, 48), (101, 37)])
def test_spans(size, window):
    found = windows.spans(size, window, 8, 8)
    kept = [own for _, own in found]
    assert kept[0].start == 0 and kept[-1].stop == size
    assert all(one.stop == other.start for one, other in itertools.pairwise(kept))
    for read, own in found:
        assert read.stop - read.start <= window and read.start % 8 == 0
        assert (read.stop - read.start - size) % 8 == 0
        assert read.start == 0 or own.start - read.start >= 8
        assert read.stop == size or read.stop - own.stop >= 8


def test_ways_of_windows(monkeypatch):
    """Plain ones lie side by side, those that blend overlap by half; the whole image has none."""
    monkeypatch.setattr(windows, "class_map", lambda *_, **arguments: arguments)
    plain, hann = (windows.predictor(None, way, 96)(None) for way in ("plain", "hann"))
    assert plain == {"window": 96, "stride": 96}
    assert hann == {"window": 96, "stride": 48, "blend": "hann"}
    assert windows.predictor(None, "plain", None)(None) == {"window": None, "stride": None}


def test_trained_again(monkeypatch):
    """For so many epochs of the recipe, at a tenth of its learning rate."""
    monkeypatch.setattr(truncation, "train_recipe", lambda recipe, _: recipe)
    recipe = truncation.retrain(None, 2, "data")
    assert (recipe.steps, recipe.warmup_steps, recipe.data_dir) == (2 * 46, 0, "data")
    assert recipe.learning_rate == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        (windows, ["--windows", "32"]),
        (sizes, ["--percent", "75", "150"]),
        (truncation, ["--frequencies", "8", "2", "1", "0"]),
        (truncation, ["--frequencies", "2", "--retrain", "2"]),
    ],
)
def test_experiments(module, flags, data_dir):
    """On a model in a file: JSON, plot and section."""
    wide = keras_fsa.FsaNet(
        11, backbone(), frequencies=3, head_channels=8, normalization="imagenet"
    )
    wide.attention_layer().gain.assign(2.0)
    wide.save(data_dir / "best.keras")
    folder = data_dir / "results"
    kind = module.__name__.split(".")[-1]
    module.main(
        [
            *("--model", str(data_dir / "best.keras"), "--data-dir", str(data_dir)),
            *("--name", "tiny", "--results", str(folder / "camvid" / kind), "--every", "2"),
            *("--note", "A note", *flags),
        ]
    )
    result = json.loads((folder / f"camvid/{kind}/tiny.json").read_text())
    scores = list(result["rows"])
    if module is windows:
        ways = [(row["way"], row["window"]) for row in result["rows"]]
        assert ways == [("whole", None), ("plain", 32), ("hann", 32), ("joined features", 32)]
    elif module is sizes:
        assert [row["percent"] for row in result["rows"]] == [75, 150]
    elif "--retrain" in flags:
        scores += [row["retrained"] for row in result["rows"]]
        assert len({score["mean_iou"] for score in scores}) > 2
        assert result["command"].endswith("--frequencies 2 --every 2 --retrain 2")
    else:
        assert [row["frequencies"] for row in result["rows"]] == [None, 2, 1, 0]
        assert "--retrain" not in result["command"]
        wide.attention_layer().gain.assign(0.0)
        examples = load("camvid", "val", str(data_dir))[::2]
        names = list(result["rows"][0]["classes"])
        without = scoring.score(lambda image: class_map(wide, image), examples, names)
        assert result["rows"][3]["pixel_accuracy"] == without["pixel_accuracy"]
        assert result["rows"][0]["pixel_accuracy"] != without["pixel_accuracy"]
    assert all(score["images"] == 1 for score in scores)
    assert Image.open(folder / f"camvid/{kind}/tiny.png").size[0] > 500
    text = getattr(sections, kind)(folder)
    assert "`tiny`, 1 images. A note" in text
    assert all(f"{score['mean_iou']:.4f}" in text for score in scores)
    lines = module.plot(result["rows"]).axes[0].get_lines()
    drawn = {float(y) for line in lines for y in line.get_ydata()}
    assert {score["mean_iou"] for score in scores} <= drawn


def test_truncation_of_softmax_elsewhere(rng, tmp_path, monkeypatch):
    """On another dataset, into its folder; softmax becomes linear."""
    images = rng.integers(0, 256, (2, *SIZE, 3)).astype("uint8")
    masks = rng.integers(0, 10, (2, *SIZE)).astype("uint8")
    given = []

    def load(*arguments):
        given.append(arguments)
        return Examples(2, lambda i: (images[i], masks[i]))

    monkeypatch.setattr(experiment, "load", load)
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    model = keras_fsa.FsaNet(
        10, backbone(), attention="spatial", head_channels=8, normalization="imagenet"
    )
    randomize(model.attention_layer(), rng, 2.0)
    model.save(tmp_path / "model.keras")
    truncation.main(
        [
            *("--model", str(tmp_path / "model.keras"), "--dataset", "signal_harbor"),
            *("--name", "tiny", "--frequencies", "2", "--affinity", "linear"),
        ]
    )
    assert given == [("signal_harbor", "test", None)]
    result = json.loads((tmp_path / "signal_harbor/truncation/tiny.json").read_text())
    assert " --dataset signal_harbor --name tiny " in result["command"]
    assert result["command"].endswith(" --affinity linear")
    for row, network in zip(
        result["rows"], (model, keras_fsa.to_frequency(model, 2, "linear")), strict=True
    ):
        ids = np.stack([class_map(network, image) for image in images])
        assert row["pixel_accuracy"] == pytest.approx((ids == masks).mean(), rel=1e-12)
    assert result["rows"][0]["pixel_accuracy"] != result["rows"][1]["pixel_accuracy"]
    assert "`tiny`, 2 images" in sections.truncation_harbor(tmp_path)


def test_a_light():
    """The sum of cosines, one by one, in float64."""
    height, width = 7, 11
    found = light.draw_light(np.random.default_rng(3), height, width)
    amplitudes = np.random.default_rng(3).normal(size=(3, 3, 4))
    expected = np.zeros((height, width, 3))
    for y, x, colour in itertools.product(range(height), range(width), range(3)):
        value = 0.0
        for u, v in itertools.product(range(3), range(3)):
            wave = np.cos(np.pi * u * (y + 0.5) / height) * np.cos(np.pi * v * (x + 0.5) / width)
            brightness, own = amplitudes[u, v, 0], amplitudes[u, v, 1 + colour]
            value += wave * (1.5 * brightness + 0.75 * own) / (1 + u + v)
        expected[y, x, colour] = -np.log(4) / (1 + np.exp(-value))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    image = np.arange(256).reshape(16, 16, 1).repeat(3, 2).astype("uint8")
    np.testing.assert_array_equal(light.lit(image, np.zeros(image.shape)), image)
    # Half the linear light, in 8 bits.
    darker = np.round(255 * (0.5 * (image / 255.0) ** 2.2) ** (1 / 2.2))
    np.testing.assert_array_equal(light.lit(image, np.full(image.shape, np.log(0.5))), darker)
    found = light.angle(np.array([[1.0, 0, 0], [2, 2, 0], [3, 3, 3]]), np.array([[1.0, 1, 0]]))
    expected = [np.pi / 4, 0, np.arccos(2 / 6**0.5)]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    # A light that is too bright by a tenth, its colour right.
    true = light.draw_light(np.random.default_rng(0), 7, 11)
    scores = light.score(lambda _: true + 0.1, [np.zeros((7, 11, 3), "uint8")])
    assert scores == {"error": pytest.approx(0.1), "angle": pytest.approx(0, abs=0.1), "images": 1}


def test_a_run_in_a_light(data_dir, monkeypatch, capsys):
    """Trained, scored, listed; its errors are those of what it answers."""
    monkeypatch.setattr(
        light.camvid, "cut", lambda stage: lambda: {**tiny(), "normalization": "tf"}
    )
    monkeypatch.setattr(light, "STEPS_PER_EPOCH", 1)
    monkeypatch.setattr(light, "WARMUP_STEPS", 1)
    folder = data_dir / "results"
    run = ["--run", "mean", "--data-dir", str(data_dir), "--output", str(data_dir / "runs")]
    run += ["--results", str(folder / "light")]
    monkeypatch.setitem(light.RUNS, "mean", dataclasses.replace(light.RUNS["mean"], steps=4))
    light.main(run)
    file = folder / "light/mean_seed0.json"
    whole = json.loads(file.read_text())
    model = camvid.open_model(data_dir / "runs/mean_seed0/model.keras")
    assert model.attention_layer().frequencies == 1
    images = [image for image, _ in load("camvid", "val", str(data_dir))]
    error = 0.0
    for i, image in enumerate(images):
        true = light.draw_light(np.random.default_rng(i), *SIZE)
        answer = array(model(light.lit(image, true)[None]))[0]
        error += np.abs(answer - true).mean() / len(images)
    assert whole["scores"]["error"] == pytest.approx(error, rel=1e-5)
    assert whole["scores_of_mean"]["error"] != whole["scores"]["error"]
    assert camvid.rows_of(data_dir / "runs/mean_seed0")[-1]["step"] == str(whole["steps"]) == "4"

    # What was trained to its end stays as it is.
    light.main(run)
    assert json.loads(file.read_text())["scores"] == whole["scores"]
    capsys.readouterr()
    light.main(["--list", "--results", str(folder / "light")])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mean")]
    assert line.split()[1:4] == [f"{error:.4f}", "-", "-"]
    for name, moving in (("gain_mean", False), ("moving_gain_mean", True)):
        begun = light.build(light.RUNS[name])
        assert float(array(begun.attention_layer().gain)) == 1
        assert all(layer.trainable != moving for layer in batch_norm_layers(begun))
    page = results.draw("{{ light }}", folder)
    figures = [f"{whole['scores'][name]:.3f}" for name in ("error", "angle")]
    title = light.RUNS["mean"].title
    assert f"| `mean` | {title} | of the batch | 4 | 0 | {' | '.join(figures)} |" in page
    assert f"| the mean of all lights |  |  |  | {whole['scores_of_mean']['error']:.3f} |" in page


def test_batches_in_a_light():
    """Those of a step are the same in a training that begins there; the light is the image's."""
    image = np.random.default_rng(0).integers(1, 256, (6, 10, 3)).astype("uint8")
    endless = light.batches([image, image[::-1], image, image], 5, 0)
    batches = [next(endless) for _ in range(3)]
    for found, again in zip(
        batches[2], next(light.batches([image, image[::-1], image, image], 5, 2))
    ):
        np.testing.assert_array_equal(found, again)
    assert not np.array_equal(batches[0][1], batches[2][1])
    for seen, true in zip(*batches[0]):
        known = [light.lit(image[::i, ::j], true) for i in (1, -1) for j in (1, -1)]
        assert any(np.array_equal(seen, one) for one in known)

"""FsaNet as a task of KerasHub: the same logits there and back, KerasHub's own calls, presets."""

import json
import shutil
import sys
import types

import keras
import keras_hub
import numpy as np
import pytest

import keras_fsa
from keras_fsa import hub, registration
from keras_fsa.commands.models import load_keras_model, load_model
from tests.helpers import BACKEND, array, default_dtype, randomize, run_python
from tests.test_fsanet import tiny_backbone

SMALL = {"head_channels": 8, "frequencies": 3, "normalization": "imagenet"}


def network(rng, **arguments):
    model = keras_fsa.FsaNet(3, **{"backbone": tiny_backbone(), **SMALL, **arguments})
    return randomize(model, rng)


def images_and_masks(rng, count=2):
    images = rng.integers(0, 256, (count, 29, 37, 3)).astype("uint8")
    masks = rng.integers(0, 3, (count, 29, 37)).astype("uint8")
    masks[:, :5] = 255
    return images, masks


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """An FsaNet, and the folder of a preset that was saved from it."""
    folder = tmp_path_factory.mktemp("presets") / "my_fsanet"
    model = network(np.random.default_rng(3))
    hub.from_fsanet(model).save_to_preset(
        folder, trained_on="CamVid | 367", figures={"mean IoU": 0.71}, licence="apache-2.0"
    )
    return model, folder


def attention_layer():
    return keras_fsa.layers.FrequencySelfAttention(
        2, "linear_softmax", key_dim=3, value_dim=5, residual="batch_norm", name="mine"
    )


def finer_stages():
    backbone = tiny_backbone()
    stage5 = keras.layers.Conv2D(7, 3, 2, "same")(backbone.output["stage5"])
    stages = {"stage3": backbone.output["stage4"], "stage4": stage5, "stage5": stage5}
    stages["stage1"] = keras.layers.Conv2D(3, 3, 2, "same")(backbone.input)
    return keras.Model(backbone.input, stages)


VARIANTS = {
    "named attention": {"num_heads": 2},
    "a layer of attention": {"attention": attention_layer, "align_corners": True},
    "no attention, no auxiliary head": {"attention": None, "auxiliary_loss_weight": 0},
    "a low-level map": {"backbone": finer_stages, "low_level": "stage3"},
    "two low-level maps": {"backbone": finer_stages, "low_level": ("stage3", "stage1")},
}


@pytest.mark.parametrize("variant", [*VARIANTS, "folded"])
def test_there_and_back(rng, variant):
    arguments = {k: v() if callable(v) else v for k, v in VARIANTS.get(variant, {}).items()}
    model = network(rng, **arguments)
    if variant == "folded":
        model = keras_fsa.fold_batch_norm(model)
    task = hub.from_fsanet(model)
    again = hub.to_fsanet(task)
    images, _ = images_and_masks(rng, 1)
    expected = model.predict(images, verbose=0)
    # The same operations on the same values.
    tolerance = {"rtol": 0, "atol": 1e-6 * np.abs(expected).max()}
    np.testing.assert_allclose(task.predict(images, verbose=0), expected, **tolerance)
    np.testing.assert_allclose(again.predict(images, verbose=0), expected, **tolerance)
    ours = again.get_config(), model.get_config()
    names = ("num_classes", "auxiliary_loss_weight", "dropout", "frequencies", "low_level")
    for name in (*names, "num_heads"):
        assert ours[0][name] == ours[1][name]
    assert [w.path for w in again.weights] == [w.path for w in model.weights]
    for mine, theirs in zip(again.weights, model.weights):
        np.testing.assert_array_equal(array(mine), array(theirs))
    # Copies: the one can be trained without the other.
    assert not {id(w) for w in task.weights} & {id(w) for w in model.weights}


@pytest.mark.once
def test_parts_keep_their_dtype_policies(rng):
    """A backbone and an attention of float32 in mixed precision computed in half of it."""
    attention = keras_fsa.layers.FrequencySelfAttention(
        2, data_format="channels_last", dtype="float32", name="mine"
    )
    model = network(rng, attention=attention, dtype="mixed_bfloat16")
    task = hub.from_fsanet(model)
    images, _ = images_and_masks(rng, 1)
    expected = model.predict(images, verbose=0)
    for one in (task, hub.to_fsanet(task)):
        np.testing.assert_array_equal(one.predict(images, verbose=0), expected)


@pytest.mark.once
def test_low_rank_adaptation(rng):
    """Keras' `enable_lora`: what it learned is in the task."""
    model = network(rng)
    for layer in model._flatten_layers():
        if type(layer) is keras.layers.Conv2D:
            layer.enable_lora(2, lora_alpha=6)
    randomize(model, rng)
    images, _ = images_and_masks(rng)
    task = hub.from_fsanet(model)
    np.testing.assert_allclose(
        task.predict_on_batch(images), model.predict_on_batch(images), rtol=1e-5, atol=1e-5
    )


@pytest.mark.once
def test_what_is_frozen_stays_frozen(rng, tmp_path):
    """There and back, in a preset, and in a file; a last layer for other classes is new."""
    model = network(rng)
    model.head.get_layer("after_bn").trainable = False
    for layer in model.auxiliary_head.layers:
        layer.trainable = not layer.weights

    def trained(net):
        return [w.path.rpartition("/")[0] for w in net.trainable_weights]

    expected = trained(model)
    assert 0 < len(expected) < len(trained(network(rng)))
    task = hub.from_fsanet(model)
    task.save_to_preset(tmp_path / "preset")
    task.save(tmp_path / "task.keras")
    tasks = [
        task,
        keras_hub.models.ImageSegmenter.from_preset(str(tmp_path / "preset")),
        keras.saving.load_model(tmp_path / "task.keras"),
    ]
    for one in tasks:
        assert not one.auxiliary_classifier.trainable
        assert len(one.trainable_weights) == len(expected)
        assert trained(hub.to_fsanet(one)) == expected
    other = keras_fsa.FsaNet.from_preset(tmp_path / "preset", num_classes=5)
    assert other.auxiliary_head.get_layer("logits").trainable
    assert len(trained(other)) == len(expected) + 2


@pytest.mark.once
def test_a_preset_of_a_network_that_was_truncated_and_folded(rng, tmp_path):
    """Its attention is a layer, and one of a head that is saved, too."""
    model = keras_fsa.fold_batch_norm(keras_fsa.to_frequency(network(rng), 2))
    hub.from_fsanet(model).save_to_preset(tmp_path / "folded")
    images, _ = images_and_masks(rng, 1)
    opened = keras_fsa.FsaNet.from_preset(tmp_path / "folded")
    assert opened.count_params() == model.count_params()
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(opened.predict(images, verbose=0), expected, rtol=1e-5)


def test_a_training_step_is_that_of_fsanet(rng):
    """Loss with the auxiliary head's, mean IoU, and what becomes of each weight."""
    model = network(rng, dropout=0.0)
    task = hub.from_fsanet(model)
    model.compile()
    images, masks = images_and_masks(rng)
    results = [net.fit(images, masks, batch_size=2, verbose=0).history for net in (model, task)]
    assert results[0].keys() == results[1].keys() == {"loss", "mean_iou"}
    for name in results[0]:
        np.testing.assert_allclose(results[1][name], results[0][name], rtol=1e-5)
    trained = hub.to_fsanet(task)
    for mine, theirs in zip(trained.weights, model.weights):
        # One step of float32; gradients differ in the order of their sums.
        np.testing.assert_allclose(array(mine), array(theirs), rtol=1e-4, atol=1e-5)
    scores = [net.evaluate(images, masks, verbose=0) for net in (model, task)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4)


def test_an_auxiliary_head_adds_to_the_loss(rng):
    task = hub.from_fsanet(network(rng, dropout=0.0))
    images, masks = images_and_masks(rng)
    outputs = task(images.astype("float32"), training=True)
    assert set(outputs) == {"logits", "auxiliary"}
    both = array(task.compute_loss(images, masks, outputs))
    alone = [
        array(keras_fsa.losses.CrossEntropy()(masks, outputs[name]))
        for name in ("logits", "auxiliary")
    ]
    assert both == pytest.approx(alone[0] + 0.4 * alone[1], rel=1e-5)
    with pytest.raises(ValueError, match=r"Masks must have the height and width of their images"):
        task.compute_loss(images, masks[:, 1:], outputs)


@pytest.mark.parametrize("floatx", ["float64", "float16"])
def test_a_task_trains_under_another_default_dtype(rng, floatx):
    images, masks = images_and_masks(rng)
    with default_dtype(floatx):
        task = hub.from_fsanet(network(rng, dtype="float32"))
        history = task.fit(images, masks, batch_size=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_wrong_data_is_refused_before_a_step(preset, rng):
    import tensorflow as tf

    task = keras_hub.models.ImageSegmenter.from_preset(str(preset[1]))
    images, masks = images_and_masks(rng)
    before = [array(weight) for weight in task.weights]
    for wrong, rule in (
        ({"y": masks[:, 1:]}, "Masks must have the height and width of their images"),
        ({"y": masks, "class_weight": {0: 2.0}}, "`class_weight` must be left out"),
    ):
        with pytest.raises(ValueError, match=rule):
            task.fit(images, batch_size=2, verbose=0, **wrong)
    for mine, was in zip(task.weights, before):
        np.testing.assert_array_equal(array(mine), was)
    # Masks that the preprocessor does not resize have the new size.
    converter = hub.FsaNetImageConverter((16, 24))
    preprocessor = hub.FsaNetImageSegmenterPreprocessor(converter, resize_output_mask=False)
    task = hub.from_fsanet(network(rng), preprocessor)
    small = np.zeros((len(images), 16, 24), "uint8")
    dataset = tf.data.Dataset.from_tensor_slices((images, small)).batch(2)
    for data in ({"x": images, "y": small, "batch_size": 2}, {"x": dataset}):
        assert np.isfinite(task.fit(**data, verbose=0).history["loss"]).all()


def test_a_model_around_a_task_trains_the_logits(rng):
    task = hub.from_fsanet(network(rng, dropout=0.0))
    images = images_and_masks(rng)[0].astype("float32")
    pictures = keras.Input((None, None, 3))
    around = keras.Model(pictures, task(pictures))
    np.testing.assert_array_equal(
        array(around(images, training=True)), array(task(images, training=True)["logits"])
    )


def test_keras_hub_opens_a_preset(preset, rng):
    model, folder = preset
    task = keras_hub.models.ImageSegmenter.from_preset(str(folder))
    assert type(task) is hub.FsaNetImageSegmenter
    images, _ = images_and_masks(rng, 1)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(task.predict(images, verbose=0), expected, rtol=1e-6, atol=1e-6)
    parts = {
        hub.FsaNetBackbone: keras_hub.models.Backbone,
        hub.FsaNetImageConverter: keras_hub.layers.ImageConverter,
        hub.FsaNetImageSegmenterPreprocessor: keras_hub.models.ImageSegmenterPreprocessor,
    }
    for ours, theirs in parts.items():
        assert type(theirs.from_preset(str(folder))) is ours
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["tasks"] == ["ImageSegmenter"]


def test_other_classes_keep_all_but_the_last_layers(preset):
    model, folder = preset
    task = keras_hub.models.ImageSegmenter.from_preset(str(folder), num_classes=5)
    again = hub.to_fsanet(task)
    assert task.output.shape[-1] == again.num_classes == 5
    old = {weight.path: array(weight) for weight in model.weights}
    kept = [w.path for w in again.weights if np.array_equal(array(w), old[w.path])]
    assert set(old) - set(kept) == {
        f"{head}/logits/{name}" if head else f"logits/{name}"
        for head in _prefixes(model)
        for name in ("kernel", "bias")
    }


def _prefixes(model):
    """Of the paths of the last layers' weights: of both heads, or none where paths are short."""
    return {
        w.path.rpartition("logits/")[0].rstrip("/") for w in model.weights if "logits" in w.path
    }


ELSEWHERE = """
import sys
import keras_fsa
assert "keras_hub" not in sys.modules and "keras_fsa.hub" not in sys.modules
import keras_hub
import numpy as np
task = keras_hub.models.ImageSegmenter.from_preset(sys.argv[1])
images = np.load(sys.argv[2])
np.save(sys.argv[3], task.predict(images, verbose=0))
task.save_to_preset(sys.argv[4])
"""


def test_a_preset_opens_on_another_backend(preset, rng, tmp_path):
    """By KerasHub's own call in a process that imports this package; and comes back."""
    model, folder = preset
    images, _ = images_and_masks(rng, 1)
    np.save(tmp_path / "images.npy", images)
    engines = ["tensorflow", "jax", "torch"]
    other = engines[(engines.index(BACKEND) + 1) % 3]
    run_python(
        ELSEWHERE,
        *(folder, tmp_path / "images.npy", tmp_path / "logits.npy", tmp_path / "back"),
        KERAS_BACKEND=other,
    )
    expected = model.predict(images, verbose=0)
    # Convolutions of float32 in another order.
    tolerance = {"rtol": 0, "atol": 1e-5 * np.abs(expected).max()}
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, **tolerance)
    back = keras_fsa.FsaNet.from_preset(tmp_path / "back")
    for mine, theirs in zip(back.weights, model.weights):
        np.testing.assert_array_equal(array(mine), array(theirs))


def test_fsanet_from_a_preset(preset, rng):
    model, folder = preset
    loaded = keras_fsa.FsaNet.from_preset(str(folder), num_classes=4, auxiliary_loss_weight=0)
    assert (loaded.num_classes, loaded.auxiliary_head) == (4, None)
    np.testing.assert_array_equal(
        array(loaded.backbone.weights[0]), array(model.backbone.weights[0])
    )
    fresh = keras_fsa.FsaNet.from_preset(folder, load_weights=False)
    assert not np.array_equal(array(fresh.backbone.weights[0]), array(model.backbone.weights[0]))
    with pytest.raises(ValueError, match=r"`frequencies` cannot be changed .*Received: freq"):
        keras_fsa.FsaNet.from_preset(folder, frequencies=5)
    with pytest.raises(ValueError, match=r"`preset` must "):
        keras_fsa.FsaNet.from_preset(str(folder.parent))


@pytest.mark.parametrize("load", [load_model, load_keras_model])
def test_commands_open_a_preset(preset, rng, load):
    model, folder = preset
    images = rng.integers(0, 256, (1, 24, 32, 3)).astype("uint8")
    want = array(model(images))
    np.testing.assert_array_equal(array(load(folder)(images)), want)


def test_handles_are_keras_hubs_to_read(preset, monkeypatch):
    import huggingface_hub

    _, folder = preset
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo_id, filename: _known(folder / filename)
    )
    assert keras_fsa.FsaNet.from_preset("hf://somebody/my_fsanet").num_classes == 3


def _known(path):
    if not path.exists():
        import huggingface_hub.errors as errors

        raise errors.EntryNotFoundError(path.name)
    return str(path)


def test_the_dtype_policy_is_the_readers(preset):
    """As of KerasHub's own presets."""
    _, folder = preset
    task = keras_hub.models.ImageSegmenter.from_preset(str(folder), dtype="mixed_bfloat16")
    backbone = task.backbone
    for part in (backbone.image_encoder, backbone.head, backbone.auxiliary_head):
        policies = {layer.dtype_policy.name for layer in part.layers if layer.weights}
        assert policies == {"mixed_bfloat16"}
    logits = task.predict(np.zeros((1, 24, 32, 3), "uint8"), verbose=0)
    assert logits.dtype == "float32" and np.isfinite(logits).all()
    wide = keras_hub.models.ImageSegmenter.from_preset(str(folder))
    assert wide.backbone.head.get_layer("attention").dtype_policy.name == "float32"


def test_a_preset_of_mixed_precision_opens(preset, tmp_path):
    """KerasHub's own are refused: "Invalid dtype: mixed_bfloat16"."""
    model, folder = preset
    task = keras_hub.models.ImageSegmenter.from_preset(str(folder), dtype="mixed_bfloat16")
    task.save_to_preset(tmp_path / "mixed")
    reloaded = keras_hub.models.ImageSegmenter.from_preset(str(tmp_path / "mixed"))
    assert reloaded.backbone.dtype_policy.name == "float32"
    images = np.full((1, 24, 32, 3), 99, "uint8")
    network = keras_fsa.FsaNet.from_preset(tmp_path / "mixed")
    for one in (reloaded, network):
        np.testing.assert_allclose(
            one.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5
        )


def test_a_file_of_a_task(preset, rng, tmp_path):
    model, folder = preset
    task = keras_hub.models.ImageSegmenter.from_preset(str(folder))
    task.save(tmp_path / "task.keras")
    loaded = keras.saving.load_model(tmp_path / "task.keras")
    images, _ = images_and_masks(rng, 1)
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-6, atol=1e-6
    )
    assert isinstance(loaded.loss, keras_fsa.losses.CrossEntropy)
    assert loaded.get_compile_config()["jit_compile"] == "auto"


@pytest.mark.parametrize("classes", [1, 3])
def test_sigmoid(rng, tmp_path, classes):
    """One class, and several at a pixel: logits, scores and masks there and back, and presets."""
    names = ["sea", "boat", "lamp"][:classes]
    model = randomize(
        keras_fsa.FsaNet(
            classes, tiny_backbone(), activation="sigmoid", class_names=names, **SMALL
        ),
        rng,
    )  # fmt: skip
    hub.from_fsanet(model).save_to_preset(tmp_path / "preset")
    task = keras_hub.models.ImageSegmenter.from_preset(str(tmp_path / "preset"))
    assert (task.activation, task.class_names) == ("sigmoid", tuple(names))
    images, _ = images_and_masks(rng)
    expected = model.predict(images, verbose=0)
    tolerance = {"rtol": 0, "atol": 1e-6 * np.abs(expected).max()}
    np.testing.assert_allclose(task.predict(images, verbose=0), expected, **tolerance)
    masks = rng.choice([0, 1, 255], expected.shape).astype("uint8")
    if classes == 1:
        masks = masks[..., 0]
    model.compile()
    scores = [net.evaluate(images, masks, verbose=0, return_dict=True) for net in (model, task)]
    assert scores[0].keys() == scores[1].keys() == {"loss", "mean_iou"}
    for name in scores[0]:
        np.testing.assert_allclose(scores[1][name], scores[0][name], rtol=1e-5)
    again = keras_fsa.FsaNet.from_preset(tmp_path / "preset")
    assert (again.activation, again.class_names) == ("sigmoid", tuple(names))
    for mine, theirs in zip(again.weights, model.weights):
        np.testing.assert_array_equal(array(mine), array(theirs))
    with pytest.raises(ValueError, match="`loss` must be of the model's activation"):
        task.compile(loss=keras_fsa.losses.CrossEntropy())
    # Whatever a pixel of one class is: five are told apart. Several stay several.
    other = keras_fsa.FsaNet.from_preset(tmp_path / "preset", num_classes=5)
    assert other.activation == ("softmax" if classes == 1 else "sigmoid")
    given = keras_fsa.FsaNet.from_preset(
        tmp_path / "preset", num_classes=5, activation="softmax", load_weights=False
    )
    assert given.activation == "softmax" and given.class_names is None
    card = (tmp_path / "preset/README.md").read_text()
    assert "| a pixel has | any number of classes |" in card and "hold 0 and 1 for each" in card


def test_colours_without_names_for_other_classes(rng, tmp_path):
    palette = [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    model = keras_fsa.FsaNet(3, tiny_backbone(), palette=palette, align_corners=True, **SMALL)
    hub.from_fsanet(randomize(model, rng)).save_to_preset(tmp_path / "preset")
    load = keras_hub.models.ImageSegmenter.from_preset
    for count in (3, 5):
        task = load(str(tmp_path / "preset"), num_classes=count)
        assert task.palette == (tuple(palette) if count == 3 else None)
    # What `keras_fsa.inference.probabilities` asks.
    assert task.align_corners is True


def test_a_preset_of_several_classes_for_one(preset):
    task = keras_hub.models.ImageSegmenter.from_preset(str(preset[1]), num_classes=1)
    assert task.activation == "sigmoid" and task.output.shape[-1] == 1


def test_masks_of_several_classes_are_resized(rng):
    masks = rng.choice([0, 1, 255], (2, 29, 37, 4)).astype("uint8")
    images = rng.integers(0, 256, (2, 29, 37, 3)).astype("uint8")
    preprocess = hub.FsaNetImageSegmenterPreprocessor(hub.FsaNetImageConverter((17, 13)))
    expected = np.stack([nearest(mask, 17, 13) for mask in masks])
    np.testing.assert_array_equal(array(preprocess(images, masks)[1]), expected)
    np.testing.assert_array_equal(array(preprocess(images[0], masks[0])[1]), expected[0])


def nearest(mask, height, width):
    """The class under each new pixel's centre."""
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    return mask[rows][:, columns]


@pytest.mark.parametrize("size", [(17, 13), (43, 59)])
def test_masks_are_resized_by_the_nearest_neighbour(rng, size):
    masks = rng.choice([0, 1, 2, 255], (2, 29, 37)).astype("uint8")
    images = rng.integers(0, 256, (2, 29, 37, 3)).astype("uint8")
    preprocess = hub.FsaNetImageSegmenterPreprocessor(hub.FsaNetImageConverter(size))
    expected = np.stack([nearest(mask, *size) for mask in masks])
    x, y = preprocess(images, masks)
    assert array(x).shape == (2, *size, 3) and array(x).min() >= 0 and array(x).max() <= 255
    np.testing.assert_array_equal(array(y), expected)
    _, y = preprocess(images, masks[..., None])
    np.testing.assert_array_equal(array(y), expected[..., None])
    _, y = preprocess(images[0], masks[0])
    np.testing.assert_array_equal(array(y), expected[0])
    x, y = hub.FsaNetImageSegmenterPreprocessor()(images, masks)
    np.testing.assert_array_equal(array(y), masks)
    np.testing.assert_array_equal(array(x), images)


def test_padding_is_ignored_and_cropping_cuts(rng):
    masks, images = np.ones((1, 20, 10, 1), "uint8"), np.full((1, 20, 10, 3), 9, "uint8")
    padded = hub.FsaNetImageSegmenterPreprocessor(
        hub.FsaNetImageConverter((20, 20), pad_to_aspect_ratio=True)
    )
    x, y = (array(part) for part in padded(images, masks))
    np.testing.assert_array_equal(y[0, :, 5:15], 1)
    np.testing.assert_array_equal(y[0, :, [*range(5), *range(15, 20)]], 255)
    np.testing.assert_array_equal(x[0, :, [*range(5), *range(15, 20)]], 0)
    masks[:, :5], masks[:, 15:] = 255, 255
    cropped = hub.FsaNetImageSegmenterPreprocessor(
        hub.FsaNetImageConverter((10, 10), crop_to_aspect_ratio=True)
    )
    _, y = cropped(images, masks)
    np.testing.assert_array_equal(array(y), 1)


def test_a_task_resizes_in_fit_and_predict(preset, rng):
    _, folder = preset
    converter = hub.FsaNetImageConverter((24, 32))
    task = keras_hub.models.ImageSegmenter.from_preset(
        str(folder), preprocessor=hub.FsaNetImageSegmenterPreprocessor(converter)
    )
    images, masks = images_and_masks(rng)
    history = task.fit(images, masks, batch_size=2, verbose=0).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["mean_iou"]).all()
    assert task.predict(images, verbose=0).shape == (2, 24, 32, 3)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(task.preprocessor)
    )
    assert again.image_size == (24, 32) and again.resize_output_mask


def test_the_card(preset, tmp_path):
    _, folder = preset
    card = (folder / "README.md").read_text()
    assert card == (folder / "model_card.md").read_text()
    for part in (
        "license: apache-2.0\n",
        "| trained on | CamVid \\| 367 |",
        "| mean IoU | 0.71 |",
        "| classes | 3 |",
        "| a pixel has | one class |",
        "Masks for training hold integer classes; 255",
        "| images | any size |",
        'ImageSegmenter.from_preset("./my_fsanet")',
    ):
        assert part in card
    task = keras_hub.models.ImageSegmenter.from_preset(str(folder))
    task.preprocessor.image_size = (24, 32)
    task.save_to_preset(tmp_path / "silent")
    card = (tmp_path / "silent/README.md").read_text()
    assert "| licence | not stated |" in card and "license:" not in card
    assert "Not stated." in card and "| images | resized to 24 x 32 |" in card


class FakeHub:
    """A folder in the place of a model hub: what KerasHub calls of huggingface_hub."""

    def __init__(self, folder):
        self.folder = folder

    def create_repo(self, repo_id, exist_ok):
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return types.SimpleNamespace(repo_id=repo_id)

    def file_exists(self, repo_id, filename):
        return (self.folder / repo_id / filename).exists()

    def upload_file(self, path_or_fileobj, path_in_repo, repo_id):
        shutil.copyfile(path_or_fileobj, self.folder / repo_id / path_in_repo)

    def upload_folder(self, repo_id, folder_path):
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)


def test_upload_keeps_the_card(preset, tmp_path, monkeypatch):
    import huggingface_hub
    import kagglehub

    _, folder = preset
    fake = FakeHub(tmp_path)
    for name in ("create_repo", "file_exists", "upload_file", "upload_folder"):
        monkeypatch.setattr(huggingface_hub, name, getattr(fake, name))
    card = (folder / "README.md").read_text()
    # KerasHub's own takes it away, and this one brings it back.
    keras_hub.upload_preset("hf://somebody/theirs", str(folder))
    assert not (folder / "README.md").exists()
    assert (tmp_path / "somebody/theirs/README.md").read_text() != card
    hub.upload_preset("hf://somebody/ours", folder)
    assert (folder / "README.md").read_text() == card
    assert (tmp_path / "somebody/ours/README.md").read_text() == card
    uploaded = keras_hub.models.ImageSegmenter.from_preset(str(tmp_path / "somebody/ours"))
    assert uploaded.num_classes == 3

    sent = []
    monkeypatch.setattr(kagglehub, "model_upload", lambda *arguments: sent.append(arguments))
    hub.upload_preset("kaggle://somebody/fsanet/keras/small", folder)
    assert sent == [("somebody/fsanet/keras/small", str(folder))]
    with pytest.raises(FileNotFoundError, match=r"`preset` must be .*model_card.md\. Received: pr"):
        hub.upload_preset("hf://somebody/ours", tmp_path)


def test_classes_come_with_keras_hub_and_not_before(tmp_path, monkeypatch):
    (tmp_path / "imaginary_hub.py").write_text("value = 3\n")
    (tmp_path / "imaginary_classes.py").write_text(
        "import imaginary_hub\ntwice = 2 * imaginary_hub.value\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(registration, "_TRIGGER", "imaginary_hub")
    monkeypatch.setattr(registration, "_MODULE", "imaginary_classes")
    finders = len(sys.meta_path)
    registration.register_with_keras_hub()
    registration.register_with_keras_hub()
    assert len(sys.meta_path) <= finders + 1
    # To ask whether it is there imports nothing, and does not use up the registration.
    from importlib.util import find_spec

    assert find_spec("imaginary_hub") is not None and "imaginary_classes" not in sys.modules
    import imaginary_hub

    assert imaginary_hub.value == 3
    assert sys.modules["imaginary_classes"].twice == 6
    # Imported before this package.
    del sys.modules["imaginary_classes"]
    registration.register_with_keras_hub()
    assert sys.modules["imaginary_classes"].twice == 6
    # Of a KerasHub that is too old.
    monkeypatch.setattr(registration, "_MODULE", "not_there")
    with pytest.warns(UserWarning, match=r"cannot load presets of FsaNet, .*keras_fsa\[hub\]"):
        registration.register_with_keras_hub()
    for name in ("imaginary_hub", "imaginary_classes"):
        monkeypatch.delitem(sys.modules, name)


def test_without_keras_hub(preset, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("keras_fsa.hub")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r'package .keras_hub.*pip install "keras_fsa\[hub\]"'):
        keras_fsa.FsaNet.from_preset(preset[1])


def test_errors(rng):
    for function, name in ((hub.from_fsanet, "model"), (hub.to_fsanet, "task")):
        with pytest.raises(ValueError, match=rf"`{name}` must be an FsaNet.*Received: {name}=3"):
            function(3)
    backbone = hub.from_fsanet(network(rng)).backbone
    for arguments in (
        {"num_classes": 0},
        {"activation": "tanh"},
        {"num_classes": 256},
        {"dropout": 1},
        {"auxiliary_loss_weight": -1},
        {"backbone": tiny_backbone()},
    ):
        (name,) = arguments
        with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}="):
            hub.FsaNetImageSegmenter(**{"backbone": backbone, "num_classes": 3, **arguments})
    with pytest.raises(ValueError, match=r"`auxiliary` must be True or False"):
        hub.FsaNetBackbone(tiny_backbone(), auxiliary=1)
    with pytest.raises(ValueError, match=r"`image_size` must be 2 positive ints or None"):
        hub.FsaNetImageConverter(24)
    with pytest.raises(ValueError, match=r"`image_converter` must be an FsaNetImageConverter"):
        hub.FsaNetImageSegmenterPreprocessor((24, 32))
    inputs = keras.Input((None, None, 6))
    head = keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs), name="plain")
    model = network(rng, head=head, auxiliary_loss_weight=0)
    with pytest.raises(ValueError, match=r"`head` must end in the layers 'dropout' and 'logits'"):
        hub.from_fsanet(model)

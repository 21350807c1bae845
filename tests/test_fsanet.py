import importlib
import json

import keras
import numpy as np
import pytest

import keras_fsa
import keras_fsa.attention_map
from keras_fsa.backbones.efficientnet_lite import strided_zeros
from keras_fsa.large import halo
from keras_fsa.models import exporting
from keras_fsa.models.folding import fold_batch_norm
from keras_fsa.models.preprocessing import PictureNormalization
from tests.helpers import (
    BACKEND,
    array,
    default_dtype,
    gradients,
    predict_in_new_process,
    randomize,
    run_python,
)


def tiny_backbone(channels=3, **kwargs):
    pictures = keras.Input((None, None, channels))
    stage4 = keras.layers.Conv2D(6, 3, 4, "same", activation="relu", **kwargs)(pictures)
    stage5 = keras.layers.Conv2D(10, 3, 1, "same", activation="relu", **kwargs)(stage4)
    return keras.Model(pictures, {"stage4": stage4, "stage5": stage5})


def tiny(num_classes=5, backbone=None, **kwargs):
    arguments = {"frequencies": 3, "head_channels": 8, "normalization": "imagenet", **kwargs}
    return keras_fsa.FsaNet(num_classes, backbone or tiny_backbone(), **arguments)


def pictures_and_masks(rng, shape=(2, 37, 53), num_classes=5):
    pictures = rng.integers(0, 256, (*shape, 3)).astype("uint8")
    masks = rng.integers(0, num_classes, shape).astype("uint8")
    masks[:, :5] = 255
    return pictures, masks


def cross_entropy(logits, masks):
    """Mean over the pixels that count, in float64."""
    logits = logits.astype("float64")
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    counts = masks != 255
    picked = np.take_along_axis(log_p, np.where(counts, masks, 0)[..., None].astype(int), -1)[
        ..., 0
    ]
    return -picked[counts].mean()


def mean_iou(logits, masks, num_classes):
    prediction, counts = logits.argmax(-1), masks != 255
    scores = []
    for i in range(num_classes):
        a, b = (prediction == i) & counts, masks == i
        if (a | b).any():
            scores.append((a & b).sum() / (a | b).sum())
    return np.mean(scores)


def test_fit_evaluate_predict(rng):
    x, y = pictures_and_masks(rng)
    model = tiny(dropout=0.0)
    # A first step behind a gain of zero is too small for plain gradient descent to show.
    model.compile(keras.optimizers.Adam(0.01))
    before = [array(w) for w in model.trainable_weights]
    history = model.fit(x, y, epochs=6, verbose=0).history
    assert set(history) == {"loss", "mean_iou"}
    assert history["loss"][-1] < history["loss"][0]
    pairs = zip(before, model.trainable_weights, strict=True)
    unmoved = [weight.path for value, weight in pairs if np.array_equal(value, array(weight))]
    assert not unmoved
    logits = model.predict(x, verbose=0)
    assert logits.shape == (2, 37, 53, 5) and logits.dtype == "float32"
    scores = model.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(scores["loss"], cross_entropy(logits, masks=y), rtol=1e-5)
    np.testing.assert_allclose(scores["mean_iou"], mean_iou(logits, y, 5), rtol=1e-5)


@pytest.mark.parametrize("floatx", ["float64", "float16"])
def test_it_trains_under_another_default_dtype(rng, floatx):
    x, y = pictures_and_masks(rng)
    with default_dtype(floatx):
        model = tiny()
        model.compile()
        history = model.fit(x, y, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_the_auxiliary_loss_is_in_the_training_loss_only(rng):
    x, y = pictures_and_masks(rng)
    model = tiny(dropout=0.0, auxiliary_loss_weight=0.25)
    outputs = {name: array(value) for name, value in model(x, training=True).items()}
    assert outputs.keys() == {"logits", "auxiliary"}
    # Frozen, the network answers in training as it does in evaluation.
    model.trainable = False
    outputs = {name: array(value) for name, value in model(x, training=True).items()}
    expected = cross_entropy(outputs["logits"], y) + 0.25 * cross_entropy(outputs["auxiliary"], y)
    for loss_weights, factor in ((10.0, 10), ([10.0], 10), (None, 1)):
        model.compile(loss_weights=loss_weights)
        loss = model.compute_loss(x, y, outputs, training=True)
        np.testing.assert_allclose(float(loss), factor * expected, rtol=1e-5)
    np.testing.assert_allclose(
        model.evaluate(x, y, verbose=0)[0], cross_entropy(outputs["logits"], y), rtol=1e-5
    )


@pytest.mark.filterwarnings("ignore:Gradients do not exist for .*auxiliary:UserWarning")
def test_training_inside_another_model(rng):
    """A functional model trains the logits, not the auxiliary ones."""
    x, y = pictures_and_masks(rng)
    x = x.astype("float32")
    model = tiny(dropout=0.0)
    around = keras.Sequential([keras.Input((None, None, 3)), model])
    in_training = model(x, training=True)["logits"]
    np.testing.assert_array_equal(array(around(x, training=True)), array(in_training))
    before = {w.path: array(w) for w in model.head.trainable_weights}
    around.compile(keras.optimizers.Adam(0.01), keras_fsa.losses.CrossEntropy())
    around.fit(x, y, epochs=3, verbose=0)
    assert not [
        w.path for w in model.head.trainable_weights if np.array_equal(array(w), before[w.path])
    ]


def test_a_weight_for_each_image(rng):
    x, y = pictures_and_masks(rng)
    model = tiny(dropout=0.0)
    model.trainable = False
    model.compile(
        weighted_metrics=[keras_fsa.metrics.MeanIoU(5, sparse_y_pred=False, ignore_class=255)]
    )
    weights = np.array([0.0, 2.0])
    for run in (model.fit, model.evaluate):
        run(x, y, sample_weight=weights, verbose=0)
    assert model.evaluate(x, y, sample_weight=weights, verbose=0)[2] == pytest.approx(
        model.evaluate(x[1:], y[1:], verbose=0)[1]
    )


def test_class_weight_belongs_to_the_loss(rng):
    model = tiny()
    model.compile()
    with pytest.raises(ValueError, match=r"`class_weight` must .*Received: class_weight=\{0: 1\}"):
        model.fit(*pictures_and_masks(rng), class_weight={0: 1})


def test_without_an_auxiliary_head(rng):
    x, y = pictures_and_masks(rng)
    pictures = keras.Input((None, None, 3))
    stage5 = keras.layers.Conv2D(4, 3, 4, "same")(pictures)
    model = tiny(backbone=keras.Model(pictures, {"stage5": stage5}), auxiliary_loss_weight=0)
    assert model(x, training=True).shape == (2, 37, 53, 5)
    model.compile()
    model.fit(x, y, verbose=0)


@pytest.mark.parametrize("shape", [(2, 37, 53), (2, 37, 53, 1), (2, 37, 53, 3)])
def test_numbers_at_each_pixel(rng, shape):
    """Such as depth: a loss of Keras, no classes, and no metric of masks."""
    pictures, _ = pictures_and_masks(rng)
    numbers = rng.standard_normal(shape).astype("float32")
    model = tiny(shape[3] if shape[3:] else 1)
    model.compile(loss="mean_absolute_error", metrics=[])
    model.fit(pictures, numbers, verbose=0)
    found = model.predict(pictures, verbose=0)
    error = np.abs(found - numbers.reshape(found.shape)).mean()
    assert model.evaluate(pictures, numbers, verbose=0) == pytest.approx(error, rel=1e-5)


@pytest.mark.once
def test_a_function_as_loss_sees_masks_of_the_rank_of_its_logits(rng):
    """As Keras has it, for the auxiliary head, too: `(H, W)` and `(H, W, 1)` broadcast."""
    images = rng.random((1, 8, 8, 3))
    numbers, answers = rng.random((2, 1, 8, 8)).astype("float32")
    model = tiny(1, auxiliary_loss_weight=0.25)
    model.compile(loss=lambda y, p: keras.ops.mean(keras.ops.abs(y - p)), metrics=[])
    expected = 1.25 * np.abs(numbers - answers).mean()
    outputs = dict.fromkeys(("logits", "auxiliary"), keras.ops.expand_dims(answers, -1))
    for masks in (numbers, numbers[..., None]):
        loss = model.compute_loss(images, masks, outputs, training=True)
        np.testing.assert_allclose(float(loss), expected, rtol=1e-5)


@pytest.mark.once
def test_one_loss_in_a_list_and_what_is_no_loss(rng):
    x, y = pictures_and_masks(rng)
    loss = keras_fsa.losses.CrossEntropy()
    model = tiny(dropout=0.0)
    totals = []
    for given in (loss, [loss], {"logits": loss}):
        model.compile(loss=given)
        totals.append(model.evaluate(x, y, verbose=0)[0])
    assert totals == totals[:1] * 3
    for wrong in ("crossentropy", [loss, loss], 3):
        with pytest.raises(ValueError, match=r"`loss` must be one loss .*Received: loss=.*Sum"):
            model.compile(loss=wrong)


def test_own_loss_metrics_and_sample_weight(rng):
    x, y = pictures_and_masks(rng)
    y[y == 255] = 0

    def loss(y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    model = tiny()
    model.compile("adam", loss, metrics=["sparse_categorical_accuracy"])
    history = model.fit(x, y, sample_weight=np.ones((2, 37, 53)), verbose=0).history
    assert set(history) == {"loss", "sparse_categorical_accuracy"}
    model.compile(metrics=[])
    assert set(model.fit(x, y[..., None], verbose=0).history) == {"loss"}


def test_uint8_and_float_pictures_are_the_same(rng):
    x, _ = pictures_and_masks(rng)
    model = tiny()
    np.testing.assert_array_equal(array(model(x)), array(model(x.astype("float32"))))


@pytest.mark.parametrize(
    ("attention", "affinity"),
    [("frequency", None), ("frequency", "linear_softmax"), ("spatial", None), (None, None)],
)
def test_attention(rng, attention, affinity):
    x, _ = pictures_and_masks(rng)
    model = tiny(attention=attention, affinity=affinity, recurrence=3, num_heads=2)
    names = [layer.name for layer in model.head.layers]
    assert ("attention" in names) == (attention is not None)
    if attention:
        layer = model.head.get_layer("attention")
        assert layer.recurrence == 3 and layer.num_heads == 2
        assert type(layer).__name__.lower().startswith(attention)
        before = array(model(x))
        randomize(layer, rng)
        assert np.abs(array(model(x)) - before).max() > 1e-3


def test_a_pixel_sees_the_same_at_any_size(rng):
    """Where no border is near, what is predicted does not depend on where the image ends."""
    x = images = keras.Input((None, None, 3))
    for filters in (6, 8, 10):
        x = keras.layers.ZeroPadding2D(2 * (strided_zeros(3, 2),))(x)
        x = keras.layers.Conv2D(filters, 3, 2, activation="relu")(x)
    arguments = {"backbone": keras.Model(images, {"stage5": x}), "auxiliary_loss_weight": 0}
    model = randomize(tiny(attention=None, **arguments), rng)
    x, _ = pictures_and_masks(rng, (1, 168, 24))
    # Beyond what a position sees, that of the next one.
    whole, near = array(model(x)), halo(model) + 2 * 8
    assert near < 80
    for height in (161, 153, 150, 145, 137):
        part = array(model(x[:, :height]))
        np.testing.assert_allclose(part[:, :-near], whole[:, : height - near], atol=1e-5)
    stretched = tiny(attention=None, align_corners=False, **arguments)
    stretched.set_weights(model.get_weights())
    assert np.abs(array(stretched(x[:, :161]))[:, :-near] - whole[:, : 161 - near]).max() > 1e-3


@pytest.mark.parametrize("align_corners", [False, True])
def test_align_corners(rng, align_corners):
    x, _ = pictures_and_masks(rng)
    model = tiny(align_corners=align_corners)
    small = array(model.head(model.backbone(model.normalize(x))["stage5"]))
    logits = array(model(x))
    # The corners' centres coincide or not: with them, corner logits are those of the small map.
    assert np.allclose(logits[:, 0, 0], small[:, 0, 0], atol=1e-5)
    coincide = np.allclose(logits[:, 1, 1], small[:, 0, 0], atol=1e-5)
    assert coincide == (not align_corners)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(rng, dtype):
    x, y = pictures_and_masks(rng)
    model = tiny(backbone=tiny_backbone(dtype=dtype), dtype=dtype)
    full = tiny()
    full.set_weights(model.get_weights())
    for layer in model.head.layers:
        if layer.name not in ("logits", "stage5"):
            assert layer.dtype_policy.name == dtype, layer.name
    logits = model.predict(x, verbose=0)
    assert logits.dtype == "float32"
    expected = full.predict(x, verbose=0)
    unit = 2**-11 if dtype == "mixed_float16" else 2**-8
    # Six layers' roundings.
    assert np.abs(logits - expected).max() < 12 * unit * np.abs(expected).max()
    model.compile()
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])


def test_saved_models_load_in_a_new_process(rng, tmp_path):
    x, y = pictures_and_masks(rng, (2, 65, 97))
    models = {
        "own": tiny(attention=keras_fsa.layers.FrequencySelfAttention(2, name="mine")),
        "resnet": tiny(backbone="resnet18", normalization=((1, 2, 3), 4), output_stride=16),
    }
    for name, model in models.items():
        attention = "mine" if name == "own" else "attention"
        randomize(model.head.get_layer(attention), rng)
        model.compile()
        model.fit(x, y, verbose=0)
    inputs = dict.fromkeys(models, x)
    outputs = predict_in_new_process(models, inputs, tmp_path)
    for name, model in models.items():
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5 * np.abs(expected).max())
    loaded = keras.saving.load_model(tmp_path / "own.keras")
    assert loaded.optimizer.iterations == 1
    first = model_scores(models["own"], x, y)
    np.testing.assert_allclose(model_scores(loaded, x, y), first, rtol=1e-5)
    loaded.fit(x, y, verbose=0)


def model_scores(model, x, y):
    return list(model.evaluate(x, y, verbose=0, return_dict=True).values())


def test_saved_model_serves_any_size(rng, tmp_path):
    model = tiny(auxiliary_loss_weight=0.4)
    randomize(model.head.get_layer("attention"), rng)
    folder = str(tmp_path / "saved_model")
    if BACKEND == "torch":
        with pytest.raises(
            ValueError, match=r"under the torch backend\. Save .*KERAS_BACKEND=tens"
        ):
            model.export(folder)
        file = tmp_path / "model.keras"
        model.save(file)
        code = "import sys, keras, keras_fsa\n"
        code += "keras.saving.load_model(sys.argv[1]).export(sys.argv[2])"
        run_python(code, file, folder, KERAS_BACKEND="tensorflow")
    else:
        model.export(folder, verbose=False)
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)
    for shape in ((1, 37, 53), (3, 64, 16), (2, 97, 131)):
        x, _ = pictures_and_masks(rng, shape)
        served = loaded.serve(x.astype("float32")).numpy()
        expected = model.predict(x, verbose=0)
        np.testing.assert_allclose(served, expected, atol=1e-4 * max(1, np.abs(expected).max()))
    # The last pictures as files give classes.
    files = tf.stack([tf.io.encode_png(picture) for picture in x])
    (classes,) = loaded.signatures["serving_bytes"](encoded=files).values()
    np.testing.assert_array_equal(classes, served.argmax(-1))


def test_inside_another_model(rng):
    x, _ = pictures_and_masks(rng)
    model = tiny()
    around = keras.Sequential([keras.Input((None, None, 3)), model, keras.layers.Softmax()])
    assert around.output_shape == (None, None, None, 5)
    np.testing.assert_allclose(around.predict(x, verbose=0).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("task", [False, True])
def test_the_data_format_of_the_machine_does_not_matter(rng, tmp_path, task):
    def build():
        keras.utils.set_random_seed(1)
        model = tiny(backbone=features, dropout=0.5)
        return importlib.import_module("keras_fsa.hub").from_fsanet(model) if task else model

    x, y = pictures_and_masks(rng)
    features = tiny_backbone()
    here = build()
    keras.config.set_image_data_format("channels_first")
    there = build()
    there.compile()
    there.train_on_batch(x, y)
    there.set_weights(here.get_weights())
    np.testing.assert_array_equal(array(there(x)), array(here(x)))
    # Dropout leaves out whole channels here and there.
    dropout = there.classifier_dropout if task else there.head.get_layer("dropout")
    kept = array(dropout(np.ones((1, 5, 7, 64), "float32"), training=True))
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:, :1, :1], kept.shape))
    there.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(array(again(x)), array(here(x)))


@pytest.mark.parametrize("size", [(None, None), (64, 96)])
def test_a_backbone_with_channels_first(size):
    pictures = keras.Input((3, *size))
    keras.config.set_image_data_format("channels_first")
    stage5 = keras.layers.Conv2D(4, 3, 4, "same")(pictures)
    with pytest.raises(
        ValueError, match=r"`backbone` must .*channels last. Received: .*\(None, 3, "
    ):
        tiny(backbone=keras.Model(pictures, {"stage4": stage5, "stage5": stage5}))
    backbone = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(3, *size))
    with pytest.raises(ValueError, match=r"Received: backbone='resnet50', whose input"):
        tiny(backbone=backbone)


def test_normalization(rng):
    x = rng.integers(0, 256, (1, 3, 4, 3)).astype("uint8")
    wide = x.astype("float64")
    for normalization, expected in (
        ("imagenet", (wide - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]),
        ("caffe", wide[..., ::-1] - [103.939, 116.779, 123.68]),
        ("tf", wide / 127.5 - 1),
        ("efficientnet_lite", (wide - 127) / 128),
        ((0, 255), wide / 255),
        (None, wide),
    ):
        layer = PictureNormalization(normalization, dtype="mixed_bfloat16")
        y = layer(x)
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        np.testing.assert_allclose(array(y), expected, atol=1e-5)
        copy = PictureNormalization.from_config(layer.get_config())
        np.testing.assert_array_equal(array(copy(x)), array(y))


@pytest.mark.once
def test_numpy_arguments(rng, tmp_path):
    """Statistics of images are arrays; files, and the JSON beside exported ones, hold numbers."""
    mean, std = rng.random(3), rng.random(3).astype("float32") + 1
    model = tiny(
        np.int64(5), image_shape=(None, np.int32(53), np.int64(3)), normalization=(mean, std)
    )
    assert model.normalization == (tuple(mean), tuple(std.tolist()))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.normalization == model.normalization
    images = rng.integers(0, 256, (1, 37, 53, 3)).astype("uint8")
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    # As such files were written before.
    config = model.get_config()
    config["normalization"] = keras.saving.serialize_keras_object([mean, std])
    assert keras_fsa.FsaNet.from_config(config).normalization == model.normalization
    scalars = tiny(normalization=(np.float32(3), np.float32(4)))
    for described in (model, scalars):
        exporting.write_description(tmp_path / "model.onnx", described)
        written = json.loads((tmp_path / "model.onnx.json").read_text())
        assert written["num_classes"] == 5
    assert written["normalization"] == [3, 4]


@pytest.mark.once
def test_files_of_statistics_in_arrays(tmp_path):
    mean = np.array([1.0, 2.0, 3.0])
    layer = PictureNormalization((mean, np.float32(2)), name="normalize")
    assert layer.normalization == ((1.0, 2.0, 3.0), 2.0)
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((4, 5, 3)), layer]).save(path)
    (opened,) = keras.saving.load_model(path).layers
    np.testing.assert_array_equal(opened.mean, mean)
    # As files had it before.
    config = {**layer.get_config(), "normalization": (mean, 2.0)}
    written = keras.saving.serialize_keras_object(config)
    np.testing.assert_array_equal(PictureNormalization.from_config(written).mean, mean)


@pytest.mark.once
def test_frozen_heads_stay_frozen(rng, tmp_path):
    x, y = pictures_and_masks(rng)
    model = tiny()
    model.head.trainable = False
    model.auxiliary_head.get_layer("auxiliary_conv").trainable = False
    model.compile()
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    half = keras_fsa.FsaNet.from_preset(tmp_path / "model.keras", dtype="mixed_bfloat16")
    for copy in (loaded, half):
        assert [w.path for w in copy.trainable_variables] == [
            w.path for w in model.trainable_variables
        ]
    # New last layers are there to be trained.
    other = keras_fsa.FsaNet.from_preset(tmp_path / "model.keras", num_classes=4)
    assert len(other.trainable_variables) == len(tiny().trainable_variables)
    assert "frozen" not in tiny().get_config()
    assert fold_batch_norm(model).auxiliary_head is None


@pytest.mark.parametrize("normalization", ["imagenet", "caffe", (0, 255), None])
def test_half_precision_overflows_nowhere(normalization):
    """Values beyond the valid range: float32 takes them as they come, float16 clips them."""
    x = np.array([-1e6, 300, 1e6, np.inf], "float32")[:, None, None, None] + np.zeros((4, 1, 1, 3))
    half = PictureNormalization(normalization, dtype="mixed_float16")
    y = array(keras.ops.cast(half(x), "float16"))
    assert np.isfinite(y).all()
    full = PictureNormalization(normalization, dtype="float32")
    valid = np.clip(x, 0, 255) if isinstance(normalization, str) else x
    limit = np.finfo("float16").max
    expected = np.clip(array(full(valid)), -limit, limit)
    np.testing.assert_allclose(array(half(x)), expected, rtol=1e-6)
    assert np.isinf(array(full(x))[-1]).all()


def test_logits_of_any_image_are_finite_in_half_precision(rng):
    x, _ = pictures_and_masks(rng)
    model = tiny(backbone=tiny_backbone(dtype="mixed_float16"), dtype="mixed_float16")
    assert np.isfinite(model.predict(1000.0 * x, verbose=0)).all()


def test_gradients_reach_the_pictures(rng):
    x, upstream = rng.standard_normal((2, 1, 3, 4, 3)).astype("float32")
    layer = PictureNormalization("imagenet")
    layer.build(x.shape)
    (gradient,) = gradients(layer, x, upstream)
    np.testing.assert_allclose(gradient, upstream / [58.395, 57.12, 57.375], rtol=1e-5)


def test_pictures_of_other_channels(rng):
    model = tiny(backbone=tiny_backbone(5), image_shape=(None, None, 5), normalization=(0, 255))
    assert model(rng.standard_normal((1, 16, 20, 5)).astype("float32")).shape == (1, 16, 20, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, r"`num_classes` must be a positive int\. Received: num_classes=0"),
        ({"num_classes": 256}, r"at most 255, .* Received: num_classes=256\. Merge"),
        ({"backbone": "vgg"}, r"`backbone` must be one of 'resnet18', .*Received: backbone='vgg'"),
        ({"backbone": 18}, r"name of a backbone or a Keras model\. Received: backbone=18\. The"),
        ({"output_stride": 4}, r"`output_stride` must be one of 8, 16, 32, None\. Received: ou"),
        (
            {"attention": "local"},
            r"`attention` must be one of 'frequency', .*Received: attention='l",
        ),
        (
            {"affinity": "softmax"},
            r"`affinity` must be one of 'dot_product', .*Received: affinity=",
        ),
        (
            {
                "attention": keras_fsa.layers.FrequencySelfAttention(
                    2, data_format="channels_first"
                ),
                "image_shape": (32, 64, 3),
            },
            r"`attention` must take maps with the channels last\. Received: attention=<Freq",
        ),
        ({"frequencies": -3}, r"`frequencies` must be a positive int, .*Received: frequencies=-3"),
        ({"recurrence": 0}, r"`recurrence` must be a positive int"),
        ({"num_heads": 0}, r"`num_heads` must be a positive int"),
        ({"num_heads": 3}, r"`channels` must be a multiple of `num_heads`"),
        ({"head_channels": 0}, r"`head_channels` must be a positive int"),
        (
            {"dropout": 1.0},
            r"`dropout` must be .*at least 0 and below 1\. Received: dropout=1\.0",
        ),
        (
            {"auxiliary_loss_weight": -1},
            r"`auxiliary_loss_weight` must be .*at least 0\. Rec",
        ),
        ({"image_shape": (64, 64)}, r"`image_shape` must be \(height, .*Received: image_shape="),
        ({"normalization": "unit"}, r"`normalization` must be one of 'imagenet', .*Received: norm"),
        ({"normalization": (0, 0)}, r"a pair \(mean, std\) of finite numbers with std > 0"),
        ({"normalization": (np.nan, 1)}, r"of finite numbers .*Received: normalization=\(nan, 1\)"),
        ({"normalization": (0, np.nan)}, r"of finite numbers with std > 0"),
        ({"normalization": (0, np.inf)}, r"of finite numbers with std > 0"),
        ({"normalization": ((1, 2), 1)}, r"one number for each channel .* images of 3 channels"),
        (
            {"image_shape": (16, 64, 3), "frequencies": 8},
            r"beyond the size of the feature map: a height of 4 .*Received: frequencies=8",
        ),
        (
            {"image_shape": (None, None, 4), "normalization": None},
            r"Received: backbone=.*input has 3 channels where",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_backbone_contract():
    pictures = keras.Input((None, None, 3))
    feature = keras.layers.Conv2D(4, 3)(pictures)
    with pytest.raises(ValueError, match=r"give a dict with .*whose outputs are not a dict\. Wrap"):
        tiny(backbone=keras.Model(pictures, feature))
    with pytest.raises(ValueError, match=r"which lacks \['stage4'\] and has \['stage5'\]"):
        tiny(backbone=keras.Model(pictures, {"stage5": feature}))
    flat = keras.layers.GlobalAveragePooling2D()(feature)
    with pytest.raises(ValueError, match=r"whose 'stage5' has the shape \(None, 4\)"):
        tiny(backbone=keras.Model(pictures, {"stage4": feature, "stage5": flat}))


def test_attention_must_keep_the_shape():
    with pytest.raises(ValueError, match=r"must return a map of the shape .*Received: attention="):
        tiny(attention=keras.layers.Conv2D(3, 1))


def test_wrong_pictures(rng):
    model = tiny()
    for shape in ((1, 16, 16, 4), (16, 16, 3)):
        with pytest.raises(ValueError, match=r"Images must have the shape .*Received: images of"):
            model(np.zeros(shape, "uint8"))
    with pytest.raises(ValueError, match=r"Received: images of shape \(1, 32, 40, 3\)"):
        tiny(image_shape=(32, 32, 3))(np.zeros((1, 32, 40, 3), "uint8"))
    image = np.zeros((16, 16, 3), "uint8")
    with pytest.raises(ValueError, match=r"must be one array.*Received: images in a list\. Stack"):
        model([image, image])


def test_import_is_light():
    code = """
import sys
import keras_fsa
heavy = {"tensorflow", "torch", "jax"} - {sys.argv[1]}
heavy |= {"keras_cv", "keras_hub", "tensorflow_datasets", "matplotlib", "PIL"}
print(sorted(heavy & set(sys.modules)))
"""
    # What Keras itself imports is not ours to forbid.
    baseline = run_python(code.replace("keras_fsa", "keras"), BACKEND)
    assert run_python(code, BACKEND) == baseline


def test_no_images_have_no_logits():
    logits = tiny().predict(np.zeros((0, 37, 53, 3), "uint8"), verbose=0)
    assert logits.shape == (0, 37, 53, 5) and logits.dtype == "float32"
    with pytest.raises(ValueError, match=r"Images must have the shape .*Received: images of"):
        tiny().predict(np.zeros((0, 37, 53, 4), "uint8"), verbose=0)


def test_masks_of_another_size_leave_the_model_whole(rng):
    x, y = pictures_and_masks(rng)
    model = tiny()
    model.compile()
    message = r"Masks must have .*Received: masks of shape \(2, 30, 53\) for images of"
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            model.fit(x, y[:, :30], verbose=0)
        model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="Masks must have .*Received: masks of shape"):
        model.evaluate(x, y[:, :30], verbose=0)


def test_errors_leave_a_model_whole(rng):

    class Interrupt(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

        on_train_batch_end = on_test_batch_end = on_predict_batch_end

    x, y = pictures_and_masks(rng)
    model = tiny()
    model.compile()
    settings = {"batch_size": 1, "verbose": 0, "callbacks": [Interrupt()]}
    before = model.get_weights()
    with pytest.raises(ValueError, match="Images must have the shape"):
        model.predict(x[0], verbose=0)
    with pytest.raises(ValueError, match="Masks must have the height and width"):
        model.fit(((x, y[:, :30]) for _ in range(2)), verbose=0)
    for run in (lambda: model.predict(x, **settings), lambda: model.evaluate(x, y, **settings)):
        with pytest.raises(KeyboardInterrupt):
            run()
    for weight, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, was)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, **settings)
    # What a step has learned is kept.
    assert int(model.optimizer.iterations) == 1
    assert np.abs(model.get_weights()[0] - before[0]).max() > 0
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])


def test_attention_layer_and_its_features(rng):
    x, _ = pictures_and_masks(rng)
    own = keras_fsa.layers.SpatialSelfAttention(name="mine")
    for model, name in ((tiny(), "attention"), (tiny(attention=own), "mine")):
        layer = model.attention_layer()
        assert layer is model.head.get_layer(name)
        features = model.attention_features(x)
        seen = keras.Model(model.head.input, layer.input)(
            model.backbone(model.normalize(x))["stage5"]
        )
        np.testing.assert_array_equal(array(features), array(seen))
        row = keras_fsa.attention_map.attention_at(layer, features[0], 1, 2)
        assert tuple(row.shape) == tuple(features.shape[1:3])
    assert tiny(attention=None).attention_layer() is None


def test_a_head_of_ones_own(rng, tmp_path):
    x, _ = pictures_and_masks(rng)
    stage5 = keras.Input((None, None, 10))
    plain = keras.Model(stage5, keras.layers.Conv2D(5, 1)(stage5))
    own = keras_fsa.layers.FrequencySelfAttention(2, name="mine")
    before_of = keras.layers.Conv2D(8, 1)
    before = before_of(stage5)
    attentive = keras.Model(stage5, keras.layers.Conv2D(5, 1)(own(before)))

    model = tiny(head=attentive)
    assert model.attention_layer() is own
    features = model.backbone(model.normalize(x))["stage5"]
    seen = keras.Model(stage5, before)(features)
    np.testing.assert_array_equal(array(model.attention_features(x)), array(seen))
    (got,) = predict_in_new_process({"model": model}, {"model": x}, tmp_path).values()
    np.testing.assert_allclose(got, model.predict_on_batch(x), atol=1e-5)
    # Its attention may have been called elsewhere before, and it may compute in half precision.
    again = keras.Input((None, None, 10))
    again = keras.Model(again, keras.layers.Conv2D(5, 1, dtype="bfloat16")(own(before_of(again))))
    model = tiny(head=again)
    features = array(model.attention_features(x))
    np.testing.assert_array_equal(
        features, array(before_of(model.backbone(model.normalize(x))["stage5"]))
    )
    assert model(x).dtype == keras.ops.zeros(1).dtype
    assert model.compute_output_spec(keras.KerasTensor((1, 33, 47, 3))).dtype == "float32"

    without = tiny(head=plain)
    assert without.attention_layer() is None
    with pytest.raises(ValueError, match="needs a head with attention. Received: head="):
        without.attention_features(x)
    for head, rule in (
        (keras.Sequential([keras.Input((None, None, 10)), keras.layers.Dense(5)]), "a functional"),
        (5, "a functional Keras model .*Received: head=5"),
        (keras.Model(stage5, {"logits": plain.output}), r"one map .*shape \(\)"),
    ):
        with pytest.raises(ValueError, match=f"`head` must (be|give) {rule}"):
            tiny(head=head)
    with pytest.raises(ValueError, match="`head` must give .*, 5.*, for num_classes=4"):
        tiny(4, head=plain)

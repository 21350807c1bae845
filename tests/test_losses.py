"""Losses against float64 NumPy, ignored pixels, gradients, and inside a compiled step."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_fsa.losses import (
    BoundaryLoss,
    CrossEntropy,
    FocalLoss,
    LovaszSoftmax,
    OhemCrossEntropy,
    SumOfLosses,
    TverskyLoss,
)
from tests.helpers import array


def reference(masks, logits, threshold=1.0, keep=1, class_weights=None, ignore=255):
    """The mean over the kept pixels, written pixel by pixel as the definition says it."""
    masks, logits = masks.reshape(-1), logits.astype("float64").reshape(-1, logits.shape[-1])
    masks, logits = masks[masks != ignore], logits[masks != ignore]
    if not len(masks):
        return 0.0
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    p = (exp / exp.sum(-1, keepdims=True))[np.arange(len(masks)), masks]
    if (p <= threshold).sum() < keep:
        threshold = np.sort(p)[min(keep, len(p)) - 1]
    weight = np.ones(len(p)) if class_weights is None else np.asarray(class_weights)[masks]
    kept = p <= threshold
    return (weight * -np.log(p))[kept].sum() / weight[kept].sum()


def batch(rng, ignored=0.2, shape=(2, 7, 11), classes=5):
    masks = rng.integers(0, classes, shape)
    masks[rng.random(shape) < ignored] = 255
    return masks.astype("uint8"), (3 * rng.standard_normal((*shape, classes))).astype("float32")


WEIGHTS = (0.5, 1.0, 2.0, 3.0, 0.25)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
@pytest.mark.parametrize(
    ("threshold", "keep"), [(0.7, 20), (0.05, 61), (0.7, 10_000), (0.0, 1), (1.0, 3)]
)
def test_ohem_equals_the_definition(rng, threshold, keep, class_weights):
    masks, logits = batch(rng)
    loss = OhemCrossEntropy(threshold, keep, class_weights=class_weights)
    expected = reference(masks, logits, threshold, keep, class_weights)
    np.testing.assert_allclose(array(loss(masks, logits)), expected, rtol=1e-6)
    np.testing.assert_allclose(array(loss(masks[..., None], logits)), expected, rtol=1e-6)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_cross_entropy_equals_the_definition(rng, class_weights):
    masks, logits = batch(rng)
    loss = array(CrossEntropy(class_weights)(masks, logits))
    np.testing.assert_allclose(loss, reference(masks, logits, 1, 1, class_weights), rtol=1e-6)
    if class_weights is None:
        keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
        np.testing.assert_allclose(loss, array(keras_loss(masks, logits)), rtol=1e-6)
    no_label = CrossEntropy(class_weights, ignore_label=None)
    masks = masks % 5
    np.testing.assert_allclose(
        array(no_label(masks, logits)), reference(masks, logits, 1, 1, class_weights), rtol=1e-6
    )


def test_sample_weights_multiply_the_terms(rng):
    masks, logits = batch(rng)
    loss = OhemCrossEntropy(0.3, 10)
    weights = np.eye(2, dtype="float32")[..., None, None]
    one, other = (array(loss(masks, logits, weight)) for weight in weights)
    np.testing.assert_allclose(one + other, array(loss(masks, logits)), rtol=1e-6)
    assert one != other


@pytest.mark.parametrize(
    "loss", [OhemCrossEntropy(0.3, 10), SumOfLosses([CrossEntropy(), LovaszSoftmax()])]
)
def test_a_weight_for_each_image(rng, loss):
    masks, logits = batch(rng)
    each_image = np.array([0.25, 2.0], "float32")
    each_pixel = np.broadcast_to(each_image[:, None, None], masks.shape)
    of_images, of_pixels, unweighted = (
        array(loss(masks, logits, weight)) for weight in (each_image, each_pixel, None)
    )
    np.testing.assert_allclose(of_images, of_pixels, rtol=1e-6)
    assert abs(of_images - unweighted) > 0.01


@pytest.mark.parametrize("loss", [CrossEntropy(WEIGHTS), OhemCrossEntropy(keep=5)])
def test_nothing_but_ignored_pixels_gives_zero(rng, loss):
    masks, logits = batch(rng, ignored=2)
    assert array(loss(masks, logits)) == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_compute_in_float32(rng, dtype):
    masks, logits = batch(rng, shape=(2, 37, 41))
    half = ops.cast(logits, dtype)
    loss = OhemCrossEntropy(0.6, 2000)(masks, half)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    exact = reference(masks, array(ops.cast(half, "float32")), 0.6, 2000)
    np.testing.assert_allclose(array(loss), exact, rtol=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy, TverskyLoss])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_class_weights_in_another_dtype(rng, loss, dtype):
    masks, logits = batch(rng)
    expected = float(loss(class_weights=WEIGHTS)(masks, logits))
    found = float(loss(class_weights=WEIGHTS, dtype=dtype)(masks, logits))
    assert found == pytest.approx(expected, rel=0.01 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_step_moves_along_the_gradient(rng, jit_compile):
    """The gradient is softmax - one_hot over the number of kept pixels, and 0 elsewhere."""
    masks, logits = batch(rng)
    loss = OhemCrossEntropy(0.4, 30)
    model = keras.Sequential([keras.Input((7, 11, 5)), keras.layers.EinsumDense("...c,c->...c", 5)])
    model.layers[0].kernel.assign(np.ones(5))
    # torch.compile needs a C compiler; eager torch is what runs by default.
    jit_compile = jit_compile and keras.backend.backend() != "torch"
    model.compile(keras.optimizers.SGD(1.0), loss, jit_compile=jit_compile)
    logged = model.fit(logits, masks, batch_size=2, verbose=0).history["loss"][0]
    np.testing.assert_allclose(logged, reference(masks, logits, 0.4, 30), rtol=1e-6)

    exp = np.exp(logits.astype("float64"))
    softmax = exp / exp.sum(-1, keepdims=True)
    one_hot = np.eye(256)[masks][..., :5]
    p = np.where(masks == 255, 2, (softmax * one_hot).sum(-1))
    kept = p <= max(0.4, np.sort(p.reshape(-1))[29])
    gradient = ((softmax - one_hot) * logits)[kept].sum(0) / kept.sum()
    # One step of plain gradient descent at rate 1, from a kernel of ones.
    np.testing.assert_allclose(1 - array(model.layers[0].kernel), gradient, atol=1e-5)


def overlap_reference(masks, logits, alpha, beta, gamma, class_weights):
    """Class by class, over the pixels that count."""
    logits = logits.astype("float64")
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True))[masks != 255]
    labels = masks[masks != 255]
    total = weights = 0.0
    for c in np.unique(labels):
        y = labels == c
        hit, extra, missed = p[y, c].sum(), p[~y, c].sum(), (1 - p[y, c]).sum()
        weight = 1 if class_weights is None else class_weights[c]
        total += weight * (1 - hit / (hit + alpha * extra + beta * missed)) ** gamma
        weights += weight
    return total / weights


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
@pytest.mark.parametrize("settings", [(0.5, 0.5, 1.0), (0.3, 0.7, 1.0), (0.3, 0.7, 0.75)])
def test_overlap_equals_the_definition(rng, settings, class_weights):
    masks, logits = batch(rng)
    masks[masks == 2] = 255  # a class that does not occur
    loss = TverskyLoss(*settings, class_weights=class_weights)
    want = overlap_reference(masks, logits, *settings, class_weights)
    np.testing.assert_allclose(array(loss(masks, logits)), want, rtol=1e-5)
    np.testing.assert_allclose(array(loss(masks[..., None], logits)), want, rtol=1e-5)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0, 0.5, 2.0])
def test_focal_equals_the_definition(rng, gamma, class_weights):
    masks, logits = batch(rng)
    valid = masks != 255
    wide = logits.astype("float64")[valid]
    p = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    p = p[np.arange(len(p)), masks[valid]]
    weight = np.ones(5) if class_weights is None else np.array(class_weights)
    weight = weight[masks[valid]]
    want = (weight * (1 - p) ** gamma * -np.log(p)).sum() / weight.sum()
    loss = FocalLoss(gamma, class_weights=class_weights)
    np.testing.assert_allclose(array(loss(masks, logits)), want, rtol=1e-5)


def lovasz_reference(masks, logits, class_weights):
    """By the definition: what the IoU loses as pixel after pixel, the worst first, is wrong."""
    logits = logits.astype("float64")
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True))[masks != 255]
    labels = masks[masks != 255]
    total = weights = 0.0
    for c in np.unique(labels):
        true = labels == c
        errors = np.where(true, 1 - p[:, c], p[:, c])
        wrong = np.zeros(len(labels), bool)
        term, iou = 0.0, 1.0
        for pixel in np.argsort(-errors):
            wrong[pixel] = True
            left = (true & ~wrong).sum() / (true | wrong).sum()
            term += errors[pixel] * (iou - left)
            iou = left
        weight = 1 if class_weights is None else class_weights[c]
        total += weight * term
        weights += weight
    return total / weights


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_lovasz_equals_the_definition(rng, class_weights):
    masks, logits = batch(rng)
    masks[masks == 2] = 255  # a class that does not occur
    loss = LovaszSoftmax(class_weights)
    want = lovasz_reference(masks, logits, class_weights)
    np.testing.assert_allclose(array(loss(masks, logits)), want, rtol=1e-5)


def test_lovasz_of_certain_masks_is_one_minus_mean_iou(rng):
    masks, other = (batch(rng)[0] for _ in range(2))
    other[other == 255] = 0
    logits = 1000 * np.eye(5, dtype="float32")[other]
    valid = masks != 255
    ious = [
        ((masks == c) & (other == c))[valid].sum() / ((masks == c) | (other == c))[valid].sum()
        for c in range(5)
    ]
    np.testing.assert_allclose(array(LovaszSoftmax()(masks, logits)), 1 - np.mean(ious), rtol=1e-5)


def test_a_sum_is_that_of_its_losses(rng):
    masks, logits = batch(rng)
    losses = [CrossEntropy(WEIGHTS), LovaszSoftmax(), TverskyLoss()]
    got = array(SumOfLosses(losses, (1, 0.5, 2))(masks, logits))
    each = [array(loss(masks, logits)) for loss in losses]
    np.testing.assert_allclose(got, each[0] + each[1] / 2 + 2 * each[2], rtol=1e-6)
    np.testing.assert_allclose(array(SumOfLosses(losses)(masks, logits)), sum(each), rtol=1e-6)


def test_a_sum_with_losses_of_others_or_sums(rng):
    yes = rng.integers(0, 2, (2, 5, 7, 3)).astype("uint8")
    logits = rng.standard_normal((2, 5, 7, 3)).astype("float32")
    keras_own = keras.losses.BinaryCrossentropy(from_logits=True)
    inner = SumOfLosses([TverskyLoss(activation="sigmoid")])
    found = array(SumOfLosses([keras_own, inner])(yes, logits))
    each = [array(loss(yes, logits)) for loss in (keras_own, inner)]
    np.testing.assert_allclose(found, sum(each), rtol=1e-5)
    with pytest.raises(ValueError, match="of one activation. Received: losses of sigmoid and soft"):
        SumOfLosses([CrossEntropy(), inner])


def boundary_reference(truth, p, valid, tolerance, class_weights):
    """Pixel by pixel. All of shape `(B, H, W, C)`."""
    _, height, width, classes = truth.shape

    def largest(x, reach):
        result = np.zeros_like(x)
        for i, j in np.ndindex(height, width):
            rows, columns = (slice(max(0, n - reach), n + reach + 1) for n in (i, j))
            result[:, i, j] = x[:, rows, columns].max((1, 2))
        return result

    def boundary(x):
        outside = (1 - x) * valid
        return (largest(outside, 1) - outside) * valid

    true, found = (boundary(x * valid) for x in (truth, p))
    total = weights = 0.0
    for c in range(classes):
        if not true[..., c].any():
            continue
        precision = (found * largest(true, tolerance))[..., c].sum() / found[..., c].sum()
        recall = (true * largest(found, tolerance))[..., c].sum() / true[..., c].sum()
        weight = 1 if class_weights is None else class_weights[c]
        total += weight * (1 - 2 * precision * recall / (precision + recall))
        weights += weight
    return total / weights


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_boundary_equals_the_definition(rng, class_weights):
    masks, logits = batch(rng, shape=(2, 11, 13))
    masks[:, :6, :7] = 1  # a region, and a class that does not occur
    masks[masks == 2] = 255
    masks[0, 2, 3] = 255
    wide = np.exp(logits.astype("float64"))
    p, valid = wide / wide.sum(-1, keepdims=True), (masks != 255)[..., None] * 1.0
    want = boundary_reference(1.0 * (masks[..., None] == np.arange(5)), p, valid, 2, class_weights)
    loss = BoundaryLoss(2, class_weights=class_weights)
    np.testing.assert_allclose(array(loss(masks, logits)), want, rtol=1e-5)


def test_boundary_loss_sees_edges_only():
    """Of certain masks: a shift within the tolerance costs nothing."""
    masks = np.zeros((1, 23, 29), "uint8")
    masks[:, 5:15, 7:19] = 1

    def of(predicted, tolerance):
        logits = 1000 * np.eye(2, dtype="float32")[predicted]
        return float(array(BoundaryLoss(tolerance)(masks, logits)))

    assert of(masks, 1) < 1e-6
    shifted = np.roll(masks, 2, axis=1)
    assert of(shifted, 2) < 1e-6 < 0.3 < of(shifted, 1)
    assert of(np.roll(masks, 6, axis=(1, 2)), 1) > 0.5


def answers(rng, classes, shape=(2, 7, 11), ignored=0.2):
    masks = rng.integers(0, 2, (*shape, classes))
    masks[rng.random(masks.shape) < ignored] = 255
    return masks.astype("uint8"), (3 * rng.standard_normal(masks.shape)).astype("float32")


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_answers_equal_their_definitions(rng, classes, weighted):
    """The sigmoid: each class of each pixel is a question by itself."""
    masks, logits = answers(rng, classes)
    weights = WEIGHTS[:classes] if weighted else None
    settings = {"activation": "sigmoid", "class_weights": weights}
    valid, yes = masks != 255, masks == 1
    p = 1 / (1 + np.exp(-logits.astype("float64")))
    weight = np.broadcast_to(np.array(weights or 1.0), masks.shape)[valid]
    true = np.where(yes, p, 1 - p)[valid]

    kept = true <= 0.6
    overlap = lovasz = total = 0.0
    for c in range(classes):
        own, y = p[..., c][valid[..., c]], yes[..., c][valid[..., c]]
        w = 1 if weights is None else weights[c]
        hit, extra, missed = own[y].sum(), own[~y].sum(), (1 - own[y]).sum()
        overlap += w * (1 - hit / (hit + 0.3 * extra + 0.7 * missed)) ** 0.75
        # As of a softmax of two classes, of which one counts.
        errors, wrong, iou = np.where(y, 1 - own, own), np.zeros(len(y), bool), 1.0
        for pixel in np.argsort(-errors):
            wrong[pixel] = True
            left = (y & ~wrong).sum() / (y | wrong).sum()
            lovasz += w * errors[pixel] * (iou - left)
            iou = left
        total += w
    boundary = boundary_reference(1.0 * yes, p, 1.0 * valid, 1, weights)
    for loss, want in (
        (CrossEntropy(**settings), (weight * -np.log(true)).sum() / weight.sum()),
        (
            OhemCrossEntropy(0.6, 3, **settings),
            (weight * -np.log(true))[kept].sum() / weight[kept].sum(),
        ),
        (
            FocalLoss(2.0, **settings),
            (weight * (1 - true) ** 2 * -np.log(true)).sum() / weight.sum(),
        ),
        (TverskyLoss(0.3, 0.7, 0.75, **settings), overlap / total),
        (LovaszSoftmax(**settings), lovasz / total),
        (BoundaryLoss(1, **settings), boundary),
    ):
        np.testing.assert_allclose(array(loss(masks, logits)), want, rtol=1e-5, err_msg=loss.name)
        if classes == 1:
            np.testing.assert_allclose(array(loss(masks[..., 0], logits)), want, rtol=1e-5)
        wrong = masks.copy()
        wrong[1, 2, 3, 0] = 2
        assert np.isnan(array(loss(wrong, logits)))
        assert abs(array(loss(np.full_like(masks, 255), logits))) < 1e-7


def test_sample_weights_of_answers(rng):
    masks, logits = answers(rng, 3)
    loss = CrossEntropy(activation="sigmoid")
    weights = np.eye(2, dtype="float32")[..., None, None]
    one, other = (array(loss(masks, logits, weight)) for weight in weights)
    np.testing.assert_allclose(one + other, array(loss(masks, logits)), rtol=1e-6)
    assert one != other
    # Large logits lose nothing: log(1 + exp(-30)).
    sure = CrossEntropy(activation="sigmoid")(np.ones((1, 1, 1, 1)), np.full((1, 1, 1, 1), 30.0))
    np.testing.assert_allclose(array(sure), np.exp(-30.0), rtol=1e-5)


OTHERS = [
    FocalLoss(0.5),
    BoundaryLoss(1),
    TverskyLoss(0.3, 0.7, 0.75),
    LovaszSoftmax(),
    SumOfLosses([CrossEntropy(), LovaszSoftmax()], [1, 0.5]),
]


@pytest.mark.parametrize("loss", OTHERS)
def test_extremes_of_the_other_losses(rng, loss):
    """Ignored pixels only, certain pixels, wrong ids; and logits of half precision."""
    masks, logits = batch(rng)
    np.testing.assert_allclose(array(loss(np.full_like(masks, 255), logits)), 0, atol=1e-7)
    certain = 1000 * np.eye(256, dtype="float32")[masks % 5][..., :5]
    np.testing.assert_allclose(array(loss(masks, certain)), 0, atol=1e-4)
    half = ops.cast(logits, "float16")
    got, want = loss(masks, half), loss(masks, array(half).astype("float32"))
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    np.testing.assert_allclose(array(got), array(want), rtol=1e-6)
    wrong = masks.copy()
    wrong[0, 0, 0] = 5
    assert np.isnan(array(loss(wrong, logits)))


@pytest.mark.parametrize("loss", OTHERS)
def test_training_with_the_other_losses(rng, loss):
    """In a compiled step, certain pixels among them: the loss falls and the weights are finite."""
    masks, logits = batch(rng)
    logits[0, 0] = 1000 * np.eye(256, dtype="float32")[masks[0, 0] % 5][..., :5]
    model = keras.Sequential([keras.Input((7, 11, 5)), keras.layers.Conv2D(5, 1)])
    model.compile(keras.optimizers.Adam(0.01), loss)
    history = model.fit(logits, masks, batch_size=2, epochs=15, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert all(np.isfinite(array(weight)).all() for weight in model.weights)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()


def test_configuration_round_trip():
    loss = OhemCrossEntropy(0.6, 7, class_weights=WEIGHTS, ignore_label=3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config() and type(again) is OhemCrossEntropy
    assert again.keep == 7 and again.threshold == 0.6 and again.ignore_label == 3


def test_files_of_the_first_version_and_the_name_in_keras():
    """They hold `ignore_class`."""
    for value in (None, 3, 255):
        loss = CrossEntropy.from_config({"class_weights": None, "ignore_class": value})
        assert loss.ignore_label == loss.ignore_class == value
        assert CrossEntropy(ignore_class=value).ignore_label == value
        assert loss.get_config()["ignore_class"] == value


@pytest.mark.parametrize("make", [CrossEntropy, lambda: OhemCrossEntropy(0.4, 30)])
@pytest.mark.parametrize("wrong", [5, 254, -1, 0.5, np.nan])
def test_a_wrong_id_makes_the_loss_nan(rng, make, wrong):
    masks, logits = batch(rng)
    masks = masks.astype("float32")
    assert np.isfinite(array(make()(masks, logits)))
    masks[1, 3, 4] = wrong
    assert np.isnan(array(make()(masks, logits)))


@pytest.mark.parametrize("make", [CrossEntropy, lambda: OhemCrossEntropy(0.4, 30)])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_on_a_wrong_id_logs_nan_and_keeps_the_weights_finite(rng, make, jit_compile):
    masks, logits = batch(rng)
    masks[1, 3, 4] = 5
    model = keras.Sequential([keras.Input((7, 11, 5)), keras.layers.EinsumDense("...c,c->...c", 5)])
    # torch.compile needs a C compiler; eager torch is what runs by default.
    jit_compile = jit_compile and keras.backend.backend() != "torch"
    model.compile(keras.optimizers.SGD(1.0), make(), jit_compile=jit_compile)
    history = model.fit(logits, masks, batch_size=2, verbose=0).history
    assert np.isnan(history["loss"][0])
    assert np.isfinite(array(model.layers[0].kernel)).all()


def test_an_ignored_pixel_may_have_any_label(rng):
    masks, logits = batch(rng)
    other = np.where(masks == 255, -7, masks.astype("int32"))
    loss = array(CrossEntropy(ignore_label=-7)(other, logits))
    np.testing.assert_allclose(loss, array(CrossEntropy()(masks, logits)), rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: OhemCrossEntropy(1.5),
            r"`threshold` must be .* at least 0 and at most 1.*=1.5",
        ),
        (lambda: OhemCrossEntropy(keep=0), r"`keep` must be a positive int. Received: keep=0"),
        (lambda: BoundaryLoss(0), r"`tolerance` must be a positive int. Received: tolerance=0"),
        (lambda: CrossEntropy(activation="tanh"), r"`activation` must be one of 'softmax', 's"),
        (lambda: FocalLoss(-1), r"`gamma` must be .* at least 0. Received: gamma=-1"),
        (lambda: TverskyLoss(alpha=0), r"`alpha` must be .* above 0. Received: alpha=0"),
        (lambda: TverskyLoss(beta=np.inf), r"`beta` must be .* Received: beta=inf"),
        (lambda: TverskyLoss(gamma="x"), r"`gamma` must be .* Received: gamma='x'"),
        (lambda: SumOfLosses([]), r"`losses` must be a list of .* Received: losses=\[\]"),
        (lambda: SumOfLosses(["dice"]), r"`losses` must be .* Received: losses=\['dice'\]"),
        (
            lambda: SumOfLosses([keras.losses.SparseCategoricalCrossentropy(ignore_class=255)]),
            r"must not count .* Received: SparseCategoricalCrossentropy with ignore_class=255",
        ),
        (lambda: SumOfLosses([FocalLoss()], [1, 2]), r"of the 1 losses.* weights=\[1, 2\]"),
        (lambda: SumOfLosses([FocalLoss()], [0]), r"`weights` must be .* Received: weights=0"),
        (lambda: OhemCrossEntropy(np.nan), r"`threshold` must be .* Received: threshold=nan"),
        (lambda: CrossEntropy([1, 0]), r"positive .* Received: class_weights=\[1, 0\]. To"),
        (lambda: CrossEntropy(3), r"`class_weights` must be a positive .* Received: class_wei.*=3"),
        (lambda: CrossEntropy("ab"), r"`class_weights` must be a positive .*='ab'"),
        (lambda: CrossEntropy([]), r"`class_weights` must be a positive .*=\[\]"),
        (lambda: CrossEntropy([1, np.nan]), r"`class_weights` must be a positive .*nan\]"),
        (
            lambda: CrossEntropy(ignore_label="x"),
            r"`ignore_label` must be an int.*='x'",
        ),
        (
            lambda: CrossEntropy(ignore_class="x"),
            r"`ignore_class` must be an int.*='x'",
        ),
        (lambda: CrossEntropy(ignore_label=0.5), r"`ignore_label` must be an int.*=0.5"),
        (
            lambda: CrossEntropy()(np.zeros((1, 4, 2)), np.zeros((1, 2, 2, 3))),
            r"Masks must have the size of the logits. Received: masks of shape \(1, 4, 2\) for",
        ),
        (
            lambda: CrossEntropy([1, 2])(np.zeros((1, 2, 2)), np.zeros((1, 2, 2, 3))),
            r"one number for each class. Received: class_weights=\[1.0, 2.0\] .* 3 classes. Give",
        ),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()

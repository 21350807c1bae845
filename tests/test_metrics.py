import keras
import numpy as np
import pytest

from keras_fsa.losses import CrossEntropy
from keras_fsa.metrics import (
    MeanIoU,
    boundary_scores,
    confusion_matrix,
    confusion_scores,
    nan_mean,
)
from tests.helpers import array


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_equals_keras(rng, sparse, weighted):
    """Keras' own, on few pixels; class 4 never occurs."""
    ours, theirs = (
        cls(5, ignore_class=255, sparse_y_pred=sparse) for cls in (MeanIoU, keras.metrics.MeanIoU)
    )
    for _ in range(2):
        masks = rng.choice([0, 1, 2, 3, 255], (2, 5, 7)).astype("uint8")
        logits = rng.standard_normal((2, 5, 7, 5)).astype("float32")
        logits[..., 4] = -9
        prediction = logits.argmax(-1) if sparse else logits
        weights = rng.uniform(0, 2, (2, 5, 7)).astype("float32") if weighted else None
        ours.update_state(masks[..., None] if sparse else masks, prediction, weights)
        theirs.update_state(masks, prediction, weights)
    np.testing.assert_allclose(array(ours.total_cm), array(theirs.total_cm), rtol=1e-6)
    assert array(ours.total_cm).sum() > 0
    np.testing.assert_allclose(float(ours.result()), float(theirs.result()), rtol=1e-6)
    iou = ours.class_iou()
    assert np.isnan(iou[4])
    np.testing.assert_allclose(np.nanmean(iou), float(ours.result()), rtol=1e-6)


def test_counts_beyond_24_and_31_bits():
    """Float32 stops at 2**24 ones, int32 at 2**31; the state is set where counting takes long."""
    metric = MeanIoU(2, ignore_class=255)
    masks = np.zeros((4200, 4200), "uint8")
    predictions = masks.copy()
    masks[:42], predictions[:84] = 1, 1
    metric.update_state(masks, predictions)
    expected = confusion_matrix(masks, predictions, 2)
    assert expected.max() > 2**24
    np.testing.assert_array_equal(array(metric.total_cm), expected)
    before = np.array([[2**30 - 9, 2**20], [0, 2**30 - 9]])
    metric.total_cm.assign(before.astype("int32"))
    masks, predictions = masks[:90, :7], predictions[:90, :7]
    expected = confusion_matrix(masks, predictions, 2)
    times = 8
    for _ in range(times):
        metric.update_state(masks, predictions)
        # As if it had counted for an hour.
        metric.total_cm.assign_add(np.diag(np.diag(before)).astype("int32"))
    total = before + times * (expected + np.diag(np.diag(before)))
    assert total.max() > 2**33
    iou = np.diag(total) / (total.sum(0) + total.sum(1) - np.diag(total))
    np.testing.assert_allclose(metric.class_iou(), iou, rtol=1e-6)
    np.testing.assert_allclose(float(metric.result()), iou.mean(), rtol=1e-6)
    metric.reset_state()
    assert not array(metric.carried).any()


CASES = {
    # name: mask ids, predicted ids or logits; the first two pixels are right
    "true id": ([0, 1, 3], [0, 1, 1]),
    "negative true id": ([0, 1, -1], [0, 1, 1]),
    "fractional true id": ([0, 1, 1.5], [0, 1, 1]),
    "true NaN": ([0, 1, np.nan], [0, 1, 1]),
    "predicted id": ([0, 1, 1], [0, 1, 4]),
    "negative predicted id": ([0, 1, 1], [0, 1, -1]),
    "fractional predicted id": ([0, 1, 1], [0, 1, 0.5]),
    "NaN logits": ([0, 1, 0], [[2, 1, 0], [0, 1, 0], [np.nan, np.nan, np.nan]]),
    "a NaN logit": ([0, 1, 0], [[2, 1, 0], [0, 1, 0], [2, np.nan, 0]]),
    "infinite logits": ([0, 1, 0], [[2, 1, 0], [0, 1, 0], [np.inf, 1, np.inf]]),
    "no logit": ([0, 1, 0], [[2, 1, 0], [0, 1, 0], [-np.inf, -np.inf, -np.inf]]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_scored_makes_nan(name):
    """And the same pixel, ignored or with the weight 0, changes nothing."""
    masks, predictions = (np.array(x, "float32")[None] for x in CASES[name])
    metric = MeanIoU(3, ignore_class=255, sparse_y_pred=predictions.ndim == 2)
    metric.update_state(masks, predictions)
    assert np.isnan(float(metric.result()))
    with pytest.raises(
        ValueError, match="ids from 0 to 2 or the ignore label 255.*Received: 1 pixels"
    ):
        metric.class_iou()
    # It stays: a score over an epoch is no number either.
    metric.update_state(masks[:, :2], predictions[:, :2])
    assert np.isnan(float(metric.result()))
    metric.reset_state()
    metric.update_state(masks, predictions, np.array([[1.0, 1.0, 0.0]]))
    if not np.isnan(masks).any():
        masks[0, 2] = 255
        metric.update_state(masks, predictions)
    np.testing.assert_array_equal(metric.class_iou(), [1, 1, np.nan])


@pytest.mark.parametrize("channel", [False, True])
def test_a_weight_for_each_image(rng, channel):
    masks = rng.integers(0, 5, (3, 5, 7))
    logits = rng.standard_normal((3, 5, 7, 5)).astype("float32")
    given = masks[..., None] if channel else masks
    of_images, alone = (MeanIoU(5, ignore_class=255, sparse_y_pred=False) for _ in range(2))
    of_images.update_state(given, logits, np.array([1.0, 0.0, 1.0]))
    alone.update_state(masks[::2], logits[::2])
    np.testing.assert_array_equal(array(of_images.total_cm), array(alone.total_cm))


@pytest.mark.parametrize(("dtype", "expected"), [(None, [1, np.nan]), ("float32", [1 / 2, 1 / 3])])
def test_weights_are_of_the_dtype_of_the_metric(dtype, expected):
    """Keras' rule: as integers, weights of 1/2 are none."""
    metric = MeanIoU(2, ignore_class=255, dtype=dtype)
    weights = np.array([[1.0, 0.5], [0.5, 0.5]])
    metric.update_state(np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 0]]), weights)
    np.testing.assert_allclose(metric.class_iou(), expected, rtol=1e-6)


def test_one_hot_masks_are_refused():
    logits = np.zeros((2, 5, 7, 3), "float32")
    for take in (MeanIoU(3, sparse_y_pred=False).update_state, CrossEntropy()):
        with pytest.raises(ValueError, match=r"one class id .*Received: masks of .*\(2, 5, 7, 3\)"):
            take(np.eye(3, dtype="float32")[np.zeros((2, 5, 7), int)], logits)
    MeanIoU(3, sparse_y_true=False, sparse_y_pred=False).update_state(logits, logits)


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 5, 7, 1)])
def test_logits_are_refused_where_predicted_ids_are_due(shape):
    metric = MeanIoU(3)
    with pytest.raises(ValueError, match=r"sparse_y_pred=False.*Received: predictions of shape"):
        metric.update_state(np.zeros(shape, "uint8"), np.zeros((2, 5, 7, 3), "float32"))
    for ids in ((2, 5, 7), (2, 5, 7, 1), (70,)):
        metric.update_state(np.zeros(shape, "uint8"), np.zeros(ids, "uint8"))
    metric.update_state(0, 0)


def test_integer_masks_beyond_the_classes():
    metric = MeanIoU(3, ignore_class=255, sparse_y_pred=True)
    metric.update_state(np.array([0, 1, 7], "uint8"), np.array([0, 1, 1], "int64"))
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize("wrong", ["mask", "logits"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_inside_a_compiled_evaluation(wrong, jit_compile):
    x = np.eye(3, dtype="float32")[np.array([[0, 1], [1, 0]])][None]
    masks = np.array([[[0, 1], [1, 255]]], "uint8")
    model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Identity()])
    metric = MeanIoU(3, ignore_class=255, sparse_y_pred=False, name="mean_iou")
    # torch.compile needs a C compiler; eager torch is what runs by default.
    jit_compile = jit_compile and keras.backend.backend() != "torch"
    model.compile(metrics=[metric], loss=CrossEntropy(), jit_compile=jit_compile)
    scores = model.evaluate(x, masks, verbose=0, return_dict=True)
    np.testing.assert_allclose(scores["mean_iou"], 1, rtol=1e-6)
    if wrong == "mask":
        masks[0, 0, 0] = 9
    else:
        x[0, 0, 0] = np.nan
    scores = model.evaluate(x, masks, verbose=0, return_dict=True)
    assert np.isnan(scores["mean_iou"]) and np.isnan(scores["loss"])


def test_config_round_trip():
    metric = MeanIoU(3, ignore_class=255, sparse_y_pred=False, name="mean_iou")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is MeanIoU and copy.get_config() == metric.get_config()


def test_confusion_matrix_counts(rng):
    """Pixel by pixel; ignored ones never, whatever is predicted there."""
    masks = rng.choice([0, 1, 3, 255], (2, 7, 5))
    predictions = rng.choice([0, 1, 2], masks.shape)
    predictions[masks == 255] = rng.choice([2, 9, 255], (masks == 255).sum())
    want = np.zeros((5, 5), int)
    for truth, predicted in zip(masks.ravel(), predictions.ravel(), strict=True):
        if truth != 255:
            want[truth, predicted] += 1
    got = confusion_matrix(masks.astype("uint8"), predictions.astype("uint8"), 5)
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.int64 and got.sum() == (masks != 255).sum()
    # 0 as the ignore label, as in masks whose classes start at 1.
    got = confusion_matrix(masks % 255, predictions, 5, ignore_label=0)
    assert got.sum() == np.isin(masks, (1, 3)).sum() and not got[0].any()


def test_confusion_scores():
    """By hand: class 2 is never true, class 3 never occurs."""
    scores = confusion_scores([[6, 1, 1, 0], [2, 5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(scores["class_iou"], [6 / 10, 5 / 8, 0, np.nan], rtol=1e-15)
    np.testing.assert_allclose(scores["class_accuracy"], [6 / 8, 5 / 7, np.nan, np.nan], rtol=1e-15)
    np.testing.assert_allclose(scores["mean_iou"], (6 / 10 + 5 / 8) / 3, rtol=1e-15)
    np.testing.assert_allclose(scores["mean_accuracy"], (6 / 8 + 5 / 7) / 2, rtol=1e-15)
    np.testing.assert_allclose(scores["pixel_accuracy"], 11 / 15, rtol=1e-15)
    np.testing.assert_allclose(scores["class_dice"], [12 / 16, 10 / 13, 0, np.nan], rtol=1e-15)
    np.testing.assert_allclose(scores["mean_dice"], (12 / 16 + 10 / 13) / 3, rtol=1e-15)


@pytest.mark.filterwarnings("error")
def test_nothing_counted():
    scores = confusion_scores(np.zeros((3, 3), int))
    assert all(np.isnan(value).all() for value in scores.values())
    assert np.isnan(nan_mean([np.nan]))
    np.testing.assert_array_equal(nan_mean([[1, np.nan], [3, np.nan]], axis=0), [2, np.nan])


def slow_boundary_scores(mask, prediction, num_classes, tolerance):
    """Every pixel against every other."""
    height, width = mask.shape

    def boundary(ids, label):
        points = []
        for i in range(height):
            for j in range(width):
                near = [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
                near = [(a, b) for a, b in near if 0 <= a < height and 0 <= b < width]
                if mask[i, j] == 255 or ids[i, j] != label:
                    continue
                if any(mask[p] != 255 and ids[p] != label for p in near):
                    points.append((i, j))
        return np.array(points, "float64").reshape(-1, 2)

    result = []
    for label in range(num_classes):
        true, predicted = boundary(mask, label), boundary(prediction, label)
        if not len(true) and not len(predicted):
            result.append(np.nan)
            continue
        distance = np.hypot(*(true[:, None] - predicted[None]).transpose(2, 0, 1))
        near = distance <= tolerance
        precision = near.any(0).mean() if len(predicted) else 1
        recall = near.any(1).mean() if len(true) else 1
        if not len(true) or not len(predicted) or precision + recall == 0:
            result.append(0)
        else:
            result.append(2 * precision * recall / (precision + recall))
    return np.array(result)


@pytest.mark.parametrize("tolerance", [1, 2.5, 3, 0.0293])
def test_boundary_scores(rng, tolerance):
    """Blobs that a prediction moves by a few pixels; class 3 in one side only, class 4 in none."""
    rows, columns = np.mgrid[:37, :53]
    waves = np.sin(rows / 5 + 1) + np.cos(columns / 7) + np.sin((rows + columns) / 9)
    mask = np.digitize(waves, [-0.5, 0.6]).astype("uint8")
    prediction = np.roll(mask, (2, -3), (0, 1))
    prediction[4:9, 20:26] = 3
    mask[20:31, 33:36] = 255
    mask[:, -1] = 255
    # The image's diagonal is 64.66: 0.0293 of it is 1.89 pixels.
    pixels = tolerance if tolerance >= 1 else tolerance * np.sqrt(37**2 + 53**2)
    want = slow_boundary_scores(mask, prediction, 5, pixels)
    got = boundary_scores(mask, prediction, 5, tolerance)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert got[3] == 0 and np.isnan(got[4]) and 0.1 < got[0] < 0.99
    # What is predicted where the truth is ignored changes nothing.
    prediction[mask == 255] = 255
    np.testing.assert_array_equal(boundary_scores(mask, prediction, 5, tolerance), got)


def test_boundaries_by_hand():
    mask = np.zeros((9, 9), "uint8")
    mask[:, 5:] = 1
    np.testing.assert_array_equal(boundary_scores(mask, mask, 3, 1), [1, 1, np.nan])
    moved = np.zeros_like(mask)
    moved[:, 7:] = 1
    # Two pixels aside: within a tolerance of two, its edge included, not within one.
    np.testing.assert_array_equal(boundary_scores(mask, moved, 2, 2), [1, 1])
    np.testing.assert_array_equal(boundary_scores(mask, moved, 2, 1.99), [0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion_matrix([0, 1], [0], 2), r"one shape. Received: masks of shape \(2,\)"),
        (lambda: confusion_matrix([0, 7], [0, 0], 2), r"`masks` must.*Received: masks with \[7\]"),
        (lambda: confusion_matrix([0, 0], [0, 2], 2), r"`predictions` must.*0 to 1.*with \[2\]"),
        (
            lambda: confusion_matrix([0.5, 1], [0, 1], 2),
            r"`masks` must hold the ids 0 to 1.*Received: masks with \[0.5\]",
        ),
        (
            lambda: confusion_matrix([0, 1], [np.nan, 1], 2),
            r"`predictions` must.*Received: predictions with \[nan\]",
        ),
        (
            lambda: confusion_matrix(["sea"], [1], 2),
            r"`masks` must be an array of class ids. Received: masks of dtype <U3",
        ),
        (
            lambda: confusion_scores([[1, np.nan], [0, 1]]),
            r"(?s)`confusion` must be a square matrix of finite counts.*nan.*shape \(2, 2\)",
        ),
        (lambda: confusion_scores([[1, 2]]), r"square matrix.*shape \(1, 2\)"),
        (lambda: confusion_scores([[1, -2], [0, 1]]), r"of at least 0.*-2"),
        (lambda: boundary_scores([0], [0], 2), r"`mask` must be the ids of one image.*\(1,\)"),
        (
            lambda: boundary_scores([[0]], [[0]], 2, 0),
            r"`tolerance` must be .* above 0.*=0",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()

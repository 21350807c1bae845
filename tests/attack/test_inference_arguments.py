"""Every argument of inference with wrong values: an error that names it, or a right result.

Each case is (argument, value). Right is: probabilities of the images' size that sum to 1.
"""

import numpy as np
import pytest

from keras_fsa.inference import batches_by_size, class_map, probabilities
from keras_fsa.losses import CrossEntropy, OhemCrossEntropy
from keras_fsa.metrics import boundary_scores, confusion_matrix, confusion_scores
from keras_fsa.segmenter import Segmenter
from tests.test_inference import small_model

IMAGES = np.zeros((8, 9, 3), "uint8")
WRONG = {
    "None": None,
    "text": "x",
    "object": object(),
    "array": np.ones((2, 3)),
    "dict": {"a": 1},
    "NaN": np.nan,
    "inf": np.inf,
    "zero": 0,
    "negative": -3,
    "fraction": 0.5,
    "flag": True,
    "empty": (),
    "of None": (None, None),
    "of text": ("x", "y"),
    "of NaN": (np.nan, np.nan),
    "of inf": (np.inf, np.inf),
    "of zeros": (0, 0),
    "three": (4, 4, 4),
    "large": 10**9,
    "of large": (10**9, 10**9),
}
ARGUMENTS = ("size", "fit", "window", "stride", "scales", "flip", "align_corners", "blend")


def check_named(error, *arguments):
    assert any(f"`{argument}`" in str(error) for argument in arguments), error


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("kind", WRONG)
def test_probabilities(argument, kind):
    try:
        result = probabilities(lambda x: x, IMAGES, **{"window": 8, argument: WRONG[kind]})
    except ValueError as error:
        # A large factor is named by its result, too.
        check_named(error, argument)
        return
    size = WRONG[kind] if argument == "size" and WRONG[kind] is not None else (8, 9)
    assert result.shape == (*size, 3)
    np.testing.assert_allclose(result.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("argument", ["images", "model"])
@pytest.mark.parametrize("function", [probabilities, class_map])
def test_model_and_images(function, argument, kind):
    arguments = {"model": lambda x: x, "images": IMAGES, argument: WRONG[kind]}
    with pytest.raises(ValueError, match=f"`{argument}`"):
        function(**arguments)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.mark.parametrize("argument", ["model", *ARGUMENTS[1:]])
@pytest.mark.parametrize("kind", WRONG)
def test_segmenter_refuses_when_built(model, argument, kind):
    """What it takes it can use: nothing waits for the first call, but the size of an image."""
    try:
        segment = Segmenter(**{"model": model, "window": 8, argument: WRONG[kind]})
    except ValueError as error:
        check_named(error, argument)
        return
    if kind in ("large", "of large") and argument in ("fit", "scales"):
        with pytest.raises(ValueError, match="`scales` must leave an image of at most"):
            segment(IMAGES)
    else:
        assert segment(IMAGES).shape == (8, 9)


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("argument", ["batch", "limit"])
def test_batches(argument, kind):
    try:
        assert list(batches_by_size([(IMAGES,)], **{"batch": 1, argument: WRONG[kind]}))
    except ValueError as error:
        check_named(error, argument)


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("argument", ["class_weights", "ignore_label", "ignore_class"])
@pytest.mark.parametrize("loss", [CrossEntropy, OhemCrossEntropy])
def test_losses(loss, argument, kind):
    masks, logits = np.zeros((1, 4, 5), "uint8"), np.zeros((1, 4, 5, 2), "float32")
    try:
        value = float(loss(**{argument: WRONG[kind]})(masks, logits))
    except ValueError as error:
        check_named(error, argument)
        return
    # log 2, or nothing where all pixels are ignored.
    ignored = argument != "class_weights" and kind == "zero"
    np.testing.assert_allclose(value, 0 if ignored else np.log(2), rtol=1e-6)


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("argument", ["threshold", "keep"])
def test_hard_pixels(argument, kind):
    masks, logits = np.zeros((1, 4, 5), "uint8"), np.zeros((1, 4, 5, 2), "float32")
    try:
        value = float(OhemCrossEntropy(**{argument: WRONG[kind]})(masks, logits))
    except ValueError as error:
        check_named(error, argument)
        return
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("argument", ["masks", "predictions", "num_classes", "ignore_label"])
def test_confusion_matrix(argument, kind):
    shape = np.shape(WRONG[kind]) if argument in ("masks", "predictions") else (2, 3)
    ids = np.zeros(shape, "uint8")
    arguments = {"masks": ids, "predictions": ids, "num_classes": 2, argument: WRONG[kind]}
    try:
        result = confusion_matrix(**arguments)
    except ValueError as error:
        check_named(error, argument)
        return
    assert result.sum() in (ids.size, 0)


@pytest.mark.parametrize("kind", WRONG)
def test_confusion_scores(kind):
    with pytest.raises(ValueError, match="`confusion`"):
        confusion_scores(WRONG[kind])


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("argument", ["num_classes", "tolerance", "ignore_label"])
def test_boundary_scores(argument, kind):
    ids = np.eye(6, dtype="uint8")
    try:
        result = boundary_scores(ids, ids, **{"num_classes": 2, argument: WRONG[kind]})
    except ValueError as error:
        check_named(error, argument)
        return
    # Equal sides: 1, or NaN for classes that have no boundary left.
    assert set(result[~np.isnan(result)]) <= {1.0}

import keras
import numpy as np
import pytest

from keras_fsa.metrics import MeanIoU
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


def test_config_round_trip():
    metric = MeanIoU(3, ignore_class=255, sparse_y_pred=False, name="mean_iou")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(copy) is MeanIoU and copy.get_config() == metric.get_config()

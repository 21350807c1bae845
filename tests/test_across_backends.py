"""A file that one backend saves the others open: over the three backends' tests, all pairs.

So do Keras' NumPy and OpenVINO backends, which predict and do not train.
"""

import numpy as np
import pytest

from keras_fsa.layers import ChannelGain, FrequencyBands, FrequencySelfAttention
from tests.helpers import BACKEND, predict_in_new_process, randomize, run_python
from tests.test_inference import small_model

OTHERS = sorted({"tensorflow", "jax", "torch"} - {BACKEND})
PREDICTING = ["numpy", "openvino"] if BACKEND == "tensorflow" else []
# Where a processor has it, bfloat16 is OpenVINO's own choice for what is in float32.
IN_FLOAT32 = """
import openvino

compile = openvino.compile_model
openvino.compile_model = lambda *where: compile(*where, {"INFERENCE_PRECISION_HINT": "f32"})
"""


@pytest.mark.parametrize("other", OTHERS + PREDICTING)
def test_the_other_backends_open_the_file(rng, tmp_path, other):
    bands = FrequencyBands([FrequencySelfAttention(2), (((2, 4), (0, 4)), ChannelGain())])
    models = {
        "linear_softmax": small_model(affinity="linear_softmax", align_corners=True),
        "bands": small_model(attention=bands),
    }
    inputs = {name: rng.integers(0, 256, (2, 37, 53, 3)).astype("uint8") for name in models}
    for model in models.values():
        randomize(model, rng)
    prologue = f"import keras; assert keras.backend.backend() == {other!r}\n"
    outputs = predict_in_new_process(
        models,
        inputs,
        tmp_path,
        prologue=prologue + IN_FLOAT32 * (other == "openvino"),
        KERAS_BACKEND=other,
    )
    for name, model in models.items():
        expected = model.predict_on_batch(inputs[name])
        assert expected.std() > 0.1
        np.testing.assert_allclose(outputs[name], expected, atol=1e-4)


@pytest.mark.parametrize("other", PREDICTING)
def test_they_are_measured(other):
    code = "from keras_fsa.__main__ import main; main()"
    flags = ("benchmark", "--model", "signal_harbor", "--size", 24, 32, "--runs", 1)
    report = run_python(code, *flags, KERAS_BACKEND=other)
    assert f"on {other}" in report and "attention" in report

"""The paper's claim, in float64: frequency attention is spatial attention of the low-passed map."""

import os

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from tests import reference
from tests.helpers import BACKEND, array, call, randomize, run_python, weights_by_name

# JAX compiles again for every shape.
EXAMPLES = 16 if BACKEND == "jax" else 40

# JAX has no float64 unless that is asked for before it starts.
if BACKEND == "jax" and os.environ.get("JAX_ENABLE_X64") != "1":

    def test_in_a_float64_process():
        code = "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
        out = run_python(code, "-p", "no:cacheprovider", __file__, JAX_ENABLE_X64="1")
        assert "5 passed" in out, out

else:

    @st.composite
    def cases(draw):
        height, width = draw(st.integers(1, 13)), draw(st.integers(1, 11))
        band = []
        for size in (height, width):
            start = draw(st.integers(0, size - 1))
            band.append((start, draw(st.integers(start + 1, size))))
        heads = draw(st.sampled_from([1, 1, 2, 3]))
        channels = heads * draw(st.sampled_from([2, 3, 5, 17][: 5 - heads]))
        residual = draw(st.sampled_from(["gain", "batch_norm", None]))
        arguments = {
            "affinity": draw(st.sampled_from(reference.SPECTRAL)),
            "recurrence": 1 if residual is None else draw(st.integers(1, 3)),
            "key_dim": draw(st.sampled_from([None, 4 * heads])),
            "value_dim": draw(st.sampled_from([None, 3 * heads])),
            "num_heads": heads,
            "use_bias": draw(st.booleans()),
            "residual": residual,
            "dtype": "float64",
            # Other values come; JAX would compile the random ones for every shape.
            "kernel_initializer": "zeros",
        }
        shape = (draw(st.integers(1, 3)), height, width, channels)
        return shape, tuple(band), arguments, draw(st.integers(0, 2**16))

    def build(cls, shape, seed, **arguments):
        layer = cls(**arguments)
        layer.build(shape)
        return randomize(layer, np.random.default_rng(seed))

    def assert_close(y, expected):
        # 1e-10 of the scale: a cubic block, three times, amplifies float64's 2e-16.
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(array(y), expected, atol=1e-10 * scale, rtol=0)

    def expect(x, layer, *args, **kwargs):
        weights = weights_by_name(layer)
        try:
            return reference.self_attention(x, weights, *args, **kwargs, heads=layer.num_heads)
        except reference.IllConditioned:
            reject()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
    @given(cases())
    def test_frequency_equals_spatial_on_the_low_passed_map(case):
        shape, band, arguments, seed = case
        x = np.random.default_rng(seed).standard_normal(shape)
        layer = build(FrequencySelfAttention, shape, seed, frequencies=band, **arguments)
        expected = expect(x, layer, arguments["affinity"], band, arguments["recurrence"])
        assert_close(call(layer, x), expected)
        spatial = SpatialSelfAttention(low_pass=band, **arguments)
        spatial.build(shape)
        spatial.set_weights(layer.get_weights())
        assert_close(call(spatial, x), expected)

    @settings(max_examples=EXAMPLES // 2, deadline=None, derandomize=True)
    @given(cases())
    def test_all_frequencies_equal_attention_on_the_map_itself(case):
        shape, _, arguments, seed = case
        x = np.random.default_rng(seed).standard_normal(shape)
        layer = build(FrequencySelfAttention, shape, seed, frequencies=shape[1:3], **arguments)
        expected = expect(x, layer, arguments["affinity"], None, arguments["recurrence"])
        assert_close(call(layer, x), expected)

    @settings(max_examples=EXAMPLES // 4, deadline=None, derandomize=True)
    @given(cases())
    def test_batch_norm_in_training(case):
        shape, band, arguments, seed = case
        # One value has no variance to divide by.
        shape = (2, shape[1] + 1, shape[2] + 1, shape[3])
        arguments |= {"residual": "batch_norm", "recurrence": 1}
        x = np.random.default_rng(seed).standard_normal(shape)
        layer = build(FrequencySelfAttention, shape, seed, frequencies=band, **arguments)
        expected = expect(x, layer, arguments["affinity"], band, training=True)
        assert_close(call(layer, x, training=True), expected)

    @pytest.mark.parametrize("key_dim", [6, 10])
    def test_softmax_is_not_rounded_to_float32(key_dim):
        """Keras' fused attention computes in float32, whatever it is given."""
        x = np.random.default_rng(0).standard_normal((2, 5, 7, 10))
        arguments = {"key_dim": key_dim, "num_heads": 2, "dtype": "float64"}
        layer = build(SpatialSelfAttention, x.shape, 0, **arguments)
        assert_close(call(layer, x), expect(x, layer, "softmax"))

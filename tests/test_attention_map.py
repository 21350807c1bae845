import keras
import numpy as np
import pytest

from keras_fsa.attention_map import attention_at, softmax_twin
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from tests import reference
from tests.helpers import array, randomize, weights_by_name

HEIGHT, WIDTH, CHANNELS = 11, 13, 5
BANDS = (((0, 3), (0, 5)), ((1, 3), (0, 2)))


def build(cls, rng, **arguments):
    layer = cls(key_dim=3, use_bias=True, **arguments)
    shape = (None, HEIGHT, WIDTH, CHANNELS)
    if layer.data_format == "channels_first":
        shape = (None, CHANNELS, HEIGHT, WIDTH)
    layer.build(shape)
    return randomize(layer, rng)


def table(layer, x, affinity, band):
    """All N x N affinities of the low-passed map, in float64 NumPy."""
    w = {name: value.astype("float64") for name, value in weights_by_name(layer).items()}
    n = HEIGHT * WIDTH
    low_pass = np.eye(n) if band is None else reference.projector(HEIGHT, WIDTH, band)
    z = low_pass @ x.astype("float64").reshape(n, CHANNELS)
    query = z @ w["query_kernel"] + w["query_bias"]
    key = z @ w["key_kernel"] + w["key_bias"]
    return reference.affinity(affinity, query, key)


def assert_rows(layer, x, affinity, band):
    expected = table(layer, x, affinity, band)
    for row, column in ((0, 0), (7, 2), (HEIGHT - 1, WIDTH - 1)):
        y = array(attention_at(layer, x, row, column))
        assert y.shape == (HEIGHT, WIDTH)
        wanted = expected[row * WIDTH + column].reshape(HEIGHT, WIDTH)
        # float32: two transforms, a product of five and one of three, some ten roundings of 6e-8.
        np.testing.assert_allclose(y, wanted, atol=2e-6 * np.abs(wanted).max(), rtol=0)


@pytest.mark.parametrize("band", BANDS, ids=("with the constant", "without it"))
@pytest.mark.parametrize("affinity", reference.SPECTRAL)
def test_tokens_hold_the_row_of_the_low_passed_map(rng, affinity, band):
    x = rng.standard_normal((HEIGHT, WIDTH, CHANNELS)).astype("float32")
    layer = build(FrequencySelfAttention, rng, frequencies=band, affinity=affinity)
    assert_rows(layer, x, affinity, band)


@pytest.mark.parametrize("band", [None, BANDS[0]], ids=("all", "low-passed"))
@pytest.mark.parametrize("affinity", reference.AFFINITIES)
def test_spatial_attention(rng, affinity, band):
    x = rng.standard_normal((HEIGHT, WIDTH, CHANNELS)).astype("float32")
    layer = build(SpatialSelfAttention, rng, low_pass=band, affinity=affinity)
    assert_rows(layer, x, affinity, band)


@pytest.mark.parametrize("affinity", reference.AFFINITIES)
def test_heads(rng, affinity):
    """Each head has a row of its own, from its part of queries and keys; by default, the mean."""
    x = rng.standard_normal((HEIGHT, WIDTH, CHANNELS)).astype("float32")
    spectral = affinity in reference.SPECTRAL
    settings = {"frequencies": BANDS[0]} if spectral else {"low_pass": BANDS[0]}
    layer = (FrequencySelfAttention if spectral else SpatialSelfAttention)(
        affinity=affinity, num_heads=2, key_dim=6, value_dim=4, **settings
    )
    layer.build((None, HEIGHT, WIDTH, CHANNELS))
    randomize(layer, rng)
    z = reference.projector(HEIGHT, WIDTH, BANDS[0]) @ x.reshape(-1, CHANNELS).astype("float64")
    w = {name: value.astype("float64") for name, value in weights_by_name(layer).items()}
    query, key = z @ w["query_kernel"], z @ w["key_kernel"]
    each = [reference.affinity(affinity, query[:, s], key[:, s]) for s in (np.s_[:3], np.s_[3:])]
    for head, expected in ((0, each[0]), (1, each[1]), (None, (each[0] + each[1]) / 2)):
        y = array(attention_at(layer, x, 7, 2, head))
        wanted = expected[7 * WIDTH + 2].reshape(HEIGHT, WIDTH)
        np.testing.assert_allclose(y, wanted, atol=2e-6 * np.abs(wanted).max(), rtol=0)
    for head in (2, -1, 1.5, True):
        with pytest.raises(ValueError, match="`head` must be .* 0 to 1. Received: head="):
            attention_at(layer, x, 7, 2, head)
    assert softmax_twin(layer).num_heads == 2


@pytest.mark.parametrize("cls", [FrequencySelfAttention, SpatialSelfAttention])
def test_row_times_values_is_what_the_layer_adds(rng, cls):
    """With a gain of one and no biases, the layer's own output tells its affinities."""
    settings = {"frequencies": 4} if cls is FrequencySelfAttention else {"low_pass": 4}
    layer = cls(affinity="linear_softmax", **settings)
    x = rng.standard_normal((HEIGHT, WIDTH, CHANNELS)).astype("float32")
    y = layer(x[None])
    layer.gain.assign(1.0)
    added = array(layer(x[None]))[0, 7, 2] - x[7, 2]
    low = reference.projector(HEIGHT, WIDTH, ((0, 4), (0, 4))) @ x.reshape(-1, CHANNELS)
    value = low @ array(layer.value_kernel)
    row = array(attention_at(layer, x, 7, 2)).reshape(-1)
    np.testing.assert_allclose(row @ value, added, atol=2e-6)
    np.testing.assert_array_equal(array(y)[0], x)


def test_channels_first_half_precision_and_small_maps(rng):
    x = rng.standard_normal((HEIGHT, WIDTH, CHANNELS)).astype("float32")
    last = build(FrequencySelfAttention, rng, frequencies=4)
    expected = array(attention_at(last, x, 1, 2))
    for arguments, given in (
        ({"data_format": "channels_first"}, x.transpose(2, 0, 1)),
        ({"dtype": "mixed_float16"}, x),
    ):
        layer = build(FrequencySelfAttention, rng, frequencies=4, **arguments)
        layer.set_weights(last.get_weights())
        np.testing.assert_array_equal(array(attention_at(layer, given, 1, 2)), expected)
    # Frequencies beyond the map are zero, as in the layer.
    layer = FrequencySelfAttention(frequencies=8, affinity="linear")
    layer.build((None, None, None, CHANNELS))
    total = array(attention_at(layer, x[:3, :2], 2, 1)).sum()
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("residual", ["gain", "batch_norm"])
def test_softmax_twin(rng, residual):
    layer = build(FrequencySelfAttention, rng, frequencies=4, residual=residual, value_dim=7)
    twin = softmax_twin(layer)
    assert twin.affinity == "softmax" and twin.low_pass is None
    assert twin.residual == residual and twin.key_dim == 3
    for name, value in weights_by_name(twin).items():
        np.testing.assert_array_equal(value, weights_by_name(layer)[name])
    x = rng.standard_normal((HEIGHT, WIDTH, CHANNELS)).astype("float32")
    assert_rows(twin, x, "softmax", None)
    low = build(SpatialSelfAttention, rng, affinity="linear", low_pass=4)
    assert softmax_twin(low).low_pass is None


def test_errors(rng):
    layer = build(FrequencySelfAttention, rng, frequencies=4)
    x = np.zeros((HEIGHT, WIDTH, CHANNELS), "float32")
    for wrong in (FrequencySelfAttention(4), keras.layers.ReLU()):
        with pytest.raises(ValueError, match="must be a built Freq.*Received: layer=.*build"):
            attention_at(wrong, x, 0, 0)
        with pytest.raises(ValueError, match="must be a built Freq"):
            softmax_twin(wrong)
    for shape in ((1, HEIGHT, WIDTH, CHANNELS), (HEIGHT, WIDTH, 4)):
        with pytest.raises(ValueError, match=r"shape \(H, W, 5\).*Received: .*features\[0\]"):
            attention_at(layer, np.zeros(shape, "float32"), 0, 0)
    with pytest.raises(ValueError, match="`row` must be .* 0 to 10. Received: row=11"):
        attention_at(layer, x, HEIGHT, 0)
    for column in (-1, 2.0, None):
        with pytest.raises(ValueError, match="`column` must be .* 0 to 12. Received: column="):
            attention_at(layer, x, 0, column)

"""A process for each band: against NumPy, alone, in a model, and through a file."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_fsa
from keras_fsa.layers import ChannelGain, FrequencyBands, FrequencySelfAttention
from tests import reference
from tests.helpers import array, predict_in_new_process, randomize, weights_by_name

HEIGHT, WIDTH, CHANNELS = 11, 13, 6
SHAPE = (2, HEIGHT, WIDTH, CHANNELS)
# The low band, one beside it, one below it, one in the corner that ends at the last frequency.
LOW, BESIDE, BELOW, CORNER = (
    ((0, 4), (0, 5)),
    ((0, 3), (5, 9)),
    ((4, 11), (1, 4)),
    ((7, 11), (9, 13)),
)
EPSILON = np.finfo("float32").eps


@keras.saving.register_keras_serializable(package="tests")
class Triple(layers.Layer):
    """Its own build, and nothing that tells the shape of its output."""

    def build(self, input_shape):
        self.gain = self.add_weight(name="gain", shape=(), initializer="ones")

    def call(self, tokens):
        return 3 * self.gain * tokens


class OnesInTraining(layers.Layer):
    def call(self, tokens, training=None):
        return keras.ops.ones_like(tokens) if training else keras.ops.zeros_like(tokens)


def four_bands(data_format=None, dtype="float32", **arguments):
    """Both kinds of items.

    The biases of the first change the constant frequency, which the second must not see.
    """
    attention = {"key_dim": 4, "data_format": data_format, "dtype": dtype, **arguments}
    return FrequencyBands(
        [
            FrequencySelfAttention(BESIDE, recurrence=2, use_bias=True, value_dim=3, **attention),
            FrequencySelfAttention(LOW, recurrence=2, **attention),
            (BELOW, ChannelGain(dtype=dtype)),
            (CORNER, layers.Dense(CHANNELS, dtype=dtype)),
        ],
        data_format=data_format,
        dtype=dtype,
    )


def built(layer, rng, shape=SHAPE):
    """Attention is cubic in its weights: these are large enough that it matters in the output."""
    layer.build(shape)
    return randomize(layer, rng, scale=0.7)


def small_model(layer, rng, size=(HEIGHT, WIDTH)):
    inputs = keras.Input((*size, CHANNELS))
    return randomize(keras.Model(inputs, layer(inputs)), rng)


def basis(band):
    rows, columns = (
        reference.dct_basis(size, *ends) for size, ends in zip((HEIGHT, WIDTH), band, strict=True)
    )
    return np.kron(rows, columns)


def flat(x):
    return np.asarray(x, "float64").reshape(len(x), HEIGHT * WIDTH, CHANNELS)


def spectrum(x):
    """All frequencies of a map, `(B, H, W, C)`."""
    whole = basis(((0, HEIGHT), (0, WIDTH)))
    return (whole.T @ flat(x)).reshape(x.shape)


def rounding(y):
    """What float32 may leave at a frequency that nobody touched.

    A position is wrong by some half epsilons of the output: one for each of the additions, and as
    many again for the bases. These errors are as good as independent, and then an orthonormal
    transform makes them no larger.
    """
    return 4 * EPSILON * np.abs(y).max()


def expected_output(layer, x):
    """The formula, with the dense basis of each band."""
    update = np.zeros_like(flat(x))
    for band, process in zip(layer.bands, layer.processes, strict=True):
        weights = weights_by_name(process)
        tokens = basis(band).T @ flat(x)
        if isinstance(process, FrequencySelfAttention):
            y = reference.self_attention(x, weights, "dot_product", band, process.recurrence)
            update += flat(y) - flat(x)
        elif isinstance(process, ChannelGain):
            update += basis(band) @ (weights["gain"] * tokens)
        else:
            update += basis(band) @ (tokens @ weights["kernel"] + weights["bias"])
    return x + update.reshape(x.shape)


def test_equals_the_formula(rng):
    layer = built(four_bands(), rng)
    x = rng.standard_normal(SHAPE).astype("float32")
    expected = expected_output(layer, x)
    assert np.abs(expected - x).max() > 0.5
    np.testing.assert_allclose(array(layer(x)), expected, atol=1e-5, rtol=0)


def test_the_tokens_of_a_process_are_those_of_its_band(rng):
    class Keep(layers.Layer):
        def call(self, tokens):
            self.seen = tokens
            return tokens

    layer = FrequencyBands([(LOW, Keep()), (CORNER, Keep())])
    x = rng.standard_normal(SHAPE).astype("float32")
    layer(x)
    for band, process in zip((LOW, CORNER), layer.processes, strict=True):
        np.testing.assert_allclose(array(process.seen), basis(band).T @ flat(x), atol=1e-5, rtol=0)


def test_frequencies_are_an_int_a_pair_or_a_band():
    for frequencies, band in (
        (4, ((0, 4), (0, 4))),
        ((4, 5), LOW),
        ([[0, 3], [5, 9]], BESIDE),
    ):
        assert list(FrequencyBands([(frequencies, ChannelGain())]).bands) == [band]


@pytest.mark.parametrize("residual", ["gain", "batch_norm"])
def test_one_attention_equals_the_attention_alone(rng, residual):
    arguments = {"recurrence": 2, "use_bias": True, "residual": residual}
    alone = built(FrequencySelfAttention(LOW, **arguments), rng)
    layer = FrequencyBands([FrequencySelfAttention(LOW, **arguments)])
    layer.build(SHAPE)
    layer.set_weights(alone.get_weights())
    x = rng.standard_normal(SHAPE).astype("float32")
    for training in (False, True):
        y = array(alone(x, training=training))
        assert np.abs(y - x).max() > 0.1
        np.testing.assert_allclose(array(layer(x, training=training)), y, atol=1e-6, rtol=0)
    for one, other in zip(alone.get_weights(), layer.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_starts_as_the_identity(rng):
    x = rng.standard_normal(SHAPE).astype("float32")
    layer = FrequencyBands([FrequencySelfAttention(LOW), (BESIDE, ChannelGain())])
    np.testing.assert_array_equal(array(layer(x)), x)


def test_frequencies_outside_the_bands_are_untouched(rng):
    layer = built(four_bands(), rng)
    # Biases of the band beside the constant frequency are constants: only these may leave a band.
    beside = layer.processes[0]
    beside.output_bias.assign(np.zeros(CHANNELS))
    beside.value_bias.assign(np.zeros(3))
    layer.processes[1].gain.assign(1.0)
    x = rng.standard_normal(SHAPE).astype("float32")
    y = array(layer(x))
    change = spectrum(y.astype("float64") - x)
    outside = np.ones((HEIGHT, WIDTH), bool)
    for (u0, u1), (v0, v1) in layer.bands:
        outside[u0:u1, v0:v1] = False
        assert np.abs(change[:, u0:u1, v0:v1]).max() > 0.1
    assert np.abs(change[:, outside]).max() < rounding(y)


def test_biases_without_the_constant_frequency_change_the_mean_alone(rng):
    layer = built(FrequencyBands([FrequencySelfAttention(BESIDE, use_bias=True)]), rng)
    x = rng.standard_normal(SHAPE).astype("float32")
    y = array(layer(x))
    change = spectrum(y.astype("float64") - x)
    assert np.abs(change[:, 0, 0]).max() > 0.1
    change[:, 0, 0] = 0
    change[:, :3, 5:9] = 0
    assert np.abs(change).max() < rounding(y)


def test_equal_gains_on_a_full_partition_scale_the_map(rng):
    bands = [((0, 4), (0, 5)), ((0, 4), (5, WIDTH)), ((4, HEIGHT), (0, WIDTH))]
    layer = FrequencyBands([(band, ChannelGain()) for band in bands])
    layer.build(SHAPE)
    gain = rng.standard_normal(CHANNELS).astype("float32")
    layer.set_weights([gain] * 3)
    x = rng.standard_normal(SHAPE).astype("float32")
    np.testing.assert_allclose(array(layer(x)), x * (1 + gain), atol=3e-6, rtol=0)


def test_channels_first_is_the_same(rng):
    last, first = (four_bands(data_format) for data_format in ("channels_last", "channels_first"))
    built(last, rng)
    first.build((2, CHANNELS, HEIGHT, WIDTH))
    first.set_weights(last.get_weights())
    x = rng.standard_normal(SHAPE).astype("float32")
    y = array(first(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(y.transpose(0, 2, 3, 1), array(last(x)), atol=1e-5, rtol=0)


def test_the_default_data_format_is_that_of_keras():
    keras.config.set_image_data_format("channels_first")
    assert FrequencyBands([(4, ChannelGain())]).data_format == "channels_first"
    keras.config.set_image_data_format("channels_last")
    assert FrequencyBands([(4, ChannelGain())]).data_format == "channels_last"


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("known", [True, False])
def test_symbolic_and_eager_shapes_agree(rng, dtype, data_format, known):
    shape = (2, CHANNELS, HEIGHT, WIDTH) if data_format == "channels_first" else SHAPE
    symbolic = shape if known else tuple(n if n == CHANNELS else None for n in shape)
    layer = four_bands(data_format, dtype=dtype)
    output = layer(keras.KerasTensor(symbolic))
    eager = layer(rng.standard_normal(shape))
    assert output.shape == symbolic == layer.compute_output_shape(symbolic)
    assert tuple(eager.shape) == shape
    compute = layer.compute_dtype
    assert output.dtype == keras.backend.standardize_dtype(eager.dtype) == compute


def test_height_and_width_unknown(rng):
    model = small_model(four_bands(), rng, size=(None, None))
    layer = model.layers[-1]
    x = rng.standard_normal(SHAPE).astype("float32")
    expected = expected_output(layer, x)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5, rtol=0)
    # A map with fewer frequencies than the bands has zeros for the rest.
    small = rng.standard_normal((2, 5, 7, CHANNELS)).astype("float32")
    np.testing.assert_allclose(model.predict(small, verbose=0), array(layer(small)), atol=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_rounds_the_output_only(rng, dtype):
    half = dtype.removeprefix("mixed_")

    def make(dtype):
        return FrequencyBands(
            [
                FrequencySelfAttention(LOW, dtype=dtype),
                (BELOW, ChannelGain(dtype=dtype)),
            ],
            dtype=dtype,
        )

    exact, mixed = built(make("float32"), rng), make(dtype)
    mixed.build(SHAPE)
    mixed.set_weights(exact.get_weights())
    # Bright: the constant token, 250 * sqrt(H W), is rounded in half precision, its cube overflows.
    x = keras.ops.cast(250 + rng.standard_normal(SHAPE), half)
    for layer in (exact, mixed):
        layer.processes[0].gain.assign(1e-6)
    y = mixed(x)
    assert keras.backend.standardize_dtype(y.dtype) == half
    y = array(keras.ops.cast(y, "float32"))
    expected = array(exact(keras.ops.cast(x, "float32")))
    unit = {"float16": 2**-11, "bfloat16": 2**-8}[half]
    assert np.abs(expected - 250).max() > 20
    np.testing.assert_allclose(y, expected, rtol=1.01 * unit)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_a_channel_gain_keeps_the_dtype_of_tokens(dtype):
    gain = ChannelGain(dtype=dtype)
    assert gain(keras.KerasTensor((None, 2, 3))).dtype == "float32"
    gain.gain.assign([1.0, -1.0, 0.1])
    # The first is beyond float16, the second has more digits than either half precision.
    tokens = np.array([[[1e6, 1.2345678, 1]]], "float32")
    y = array(gain(tokens))
    assert y.dtype == "float32"
    np.testing.assert_array_equal(y, tokens * np.array([1, -1, 0.1], "float32"))


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_a_process_in_half_precision_keeps_its_policy(rng, dtype):
    exact, mixed = built(four_bands(), rng), four_bands(dtype=dtype)
    mixed.build(SHAPE)
    mixed.set_weights(exact.get_weights())
    assert mixed.processes[-1].compute_dtype == mixed.compute_dtype == dtype.removeprefix("mixed_")
    x = rng.standard_normal(SHAPE).astype("float32")
    y = array(keras.ops.cast(mixed(x), "float32"))
    unit = {"mixed_float16": 2**-11, "mixed_bfloat16": 2**-8}[dtype]
    np.testing.assert_allclose(y, array(exact(x)), atol=20 * unit, rtol=0)


def test_training_reaches_the_processes(rng):
    layer = FrequencyBands(
        [
            FrequencySelfAttention(LOW, residual="batch_norm"),
            (BESIDE, OnesInTraining()),
            (CORNER, keras.Sequential([layers.Identity(), OnesInTraining()])),
        ]
    )
    x = rng.standard_normal(SHAPE).astype("float32")
    np.testing.assert_array_equal(array(layer(x)), x)
    mean = array(layer.processes[0].norm.moving_variance)
    np.testing.assert_array_equal(mean, 1)
    change = spectrum(array(layer(x, training=True)).astype("float64") - x)
    np.testing.assert_allclose(change[:, 0:3, 5:9], 1, atol=1e-5)
    np.testing.assert_allclose(change[:, 7:, 9:], 1, atol=1e-5)
    assert (array(layer.processes[0].norm.moving_variance) < 0.95).all()


@pytest.mark.parametrize("residual", ["gain", "batch_norm"])
def test_a_fit_step_moves_every_process_and_stays_finite(rng, residual):
    inputs = keras.Input(SHAPE[1:])
    before, bands = layers.Dense(CHANNELS), four_bands(residual=residual)
    model = randomize(keras.Model(inputs, bands(before(inputs))), rng)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    old_weights = [array(weight) for weight in model.weights]
    x, y = rng.standard_normal((2, *SHAPE))
    model.fit(x, y, verbose=0)
    for old, weight in zip(old_weights, model.weights, strict=True):
        assert not np.array_equal(old, array(weight)), weight.path
    model.fit(np.zeros(SHAPE), y, verbose=0)
    # A weight after a step of plain descent is finite where its gradient is.
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_build_builds_everything_once(rng):
    layer = FrequencyBands(
        [
            FrequencySelfAttention(LOW),
            (BESIDE, keras.Sequential([layers.Dense(8), layers.Dense(CHANNELS)])),
            (BELOW, Triple()),
        ]
    )
    layer.build((None, None, None, CHANNELS))
    assert all(process.built for process in layer.processes)
    count = len(layer.weights)
    assert count == 5 + 4 + 1
    layer(rng.standard_normal(SHAPE))
    assert len(layer.weights) == count
    # A layer that is already built keeps its weights.
    attention = built(FrequencySelfAttention(LOW), rng)
    kernel = array(attention.query_kernel)
    FrequencyBands([attention]).build(SHAPE)
    np.testing.assert_array_equal(array(attention.query_kernel), kernel)
    assert len(attention.weights) == 5


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_config_round_trip(rng, data_format):
    layer = FrequencyBands(
        [
            FrequencySelfAttention(LOW, recurrence=2, data_format=data_format, name="low"),
            (BESIDE, Triple(dtype="mixed_float16")),
            (CORNER, keras.Sequential([layers.Dense(8), layers.Dense(CHANNELS)])),
        ],
        data_format=data_format,
        dtype="mixed_bfloat16",
        name="bands",
    )
    shape = (2, CHANNELS, HEIGHT, WIDTH) if data_format == "channels_first" else SHAPE
    built(layer, rng, shape)
    x = rng.standard_normal(shape).astype("float32")
    for copy in (
        FrequencyBands.from_config(layer.get_config()),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer)),
    ):
        assert copy.get_config() == layer.get_config()
        assert [type(process) for process in copy.processes] == [
            FrequencySelfAttention,
            Triple,
            keras.Sequential,
        ]
        assert copy.data_format == data_format
        assert copy.dtype_policy.name == "mixed_bfloat16"
        assert copy.processes[1].dtype_policy.name == "mixed_float16"
        if not copy.built:
            copy.build(shape)
        copy.set_weights(layer.get_weights())
        y, z = (array(keras.ops.cast(each(x), "float32")) for each in (layer, copy))
        np.testing.assert_array_equal(y, z)


def test_in_fsanet_and_through_files(rng, tmp_path):
    pictures = keras.Input((None, None, 3))
    stage4 = layers.Conv2D(4, 3, 2, padding="same", activation="relu")(pictures)
    stage5 = layers.Conv2D(8, 3, padding="same", activation="relu")(stage4)
    bands = FrequencyBands(
        [FrequencySelfAttention(8), (((8, 16), (0, 16)), ChannelGain())], name="bands"
    )
    net = keras_fsa.FsaNet(
        3,
        backbone=keras.Model(pictures, {"stage4": stage4, "stage5": stage5}),
        attention=bands,
        head_channels=6,
        auxiliary_loss_weight=0,
    )
    x = rng.integers(0, 256, (2, 33, 37, 3)).astype("float32")
    net.compile(metrics=[])
    net.fit(x, rng.integers(0, 3, (2, 33, 37)), verbose=0)
    for process in bands.processes:
        assert np.abs(array(process.gain)).max() > 0
    randomize(bands, rng)
    alone = small_model(four_bands(dtype="mixed_float16"), rng, size=(None, None))
    models = {"net": net, "alone": alone}
    inputs = {"net": x, "alone": rng.standard_normal(SHAPE).astype("float32")}
    outputs = predict_in_new_process(models, inputs, tmp_path)
    for name, model in models.items():
        y = model.predict(inputs[name], verbose=0)
        np.testing.assert_array_equal(outputs[name], y)


def test_wrong_arguments():
    gain = ChannelGain()
    shared = ChannelGain(name="shared")
    attention = FrequencySelfAttention(4)
    for bands, message in (
        ([], r"`bands` must be a list of at least one band.*Received: bands=\[\]\. Write"),
        (8, r"must be a list of at least one band.*Received: bands=8\. Write"),
        ([gain], r"must be a pair .frequencies, process.*Received: bands\[0\]=<Ch.*Put a function"),
        ([attention, (8, abs)], r"a Keras layer, or.*Received: bands\[1\]=\(8, <built-in function"),
        ([(4, gain, gain)], r"must be a pair .frequencies, proc.*Received: bands\[0\]=\(4, <Cha"),
        ([(4, attention)], r"its own frequencies. Received: bands\[0\]=\(4, <F.*not in a pair"),
        ([(0, gain)], r"`frequencies` must be a positive int.*Received: frequencies=0\. For"),
        (
            [attention, (BELOW, gain), (((3, 5), (3, 4)), ChannelGain())],
            (
                r"must not overlap.*Received: bands\[0\]=\(\(0, 4\), \(0, 4\)\) and "
                r"bands\[2\]=\(\(3, 5\), \(3, 4\)\), whose rows and columns both intersect\. Shrink"
            ),
        ),
        (
            [(BESIDE, gain), (BELOW, ChannelGain()), (((10, 12), (0, 9)), ChannelGain())],
            r"must not overlap.*Received: bands\[1\].* and bands\[2\]",
        ),
        (
            [(LOW, shared), (BESIDE, gain), (CORNER, shared)],
            r"process of its own.*Received: bands\[0\] and bands\[2\].*name=shared.*Create one",
        ),
        (
            [(LOW, gain), FrequencySelfAttention(BESIDE, affinity="linear")],
            r'affinity "dot_product".*Received: bands\[1\]\.affinity=\'linear\'\. Use the dot',
        ),
        (
            [FrequencySelfAttention(4, data_format="channels_first")],
            r"data format of the layer\. Received: bands\[0\]\.data_format='channels_first' "
            r"with data_format='channels_last'\. Give both the same",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            FrequencyBands(bands)
    with pytest.raises(ValueError, match="`data_format` must be one of.*Received: data_format='la"):
        FrequencyBands([attention], data_format="last")


def test_bands_that_touch_do_not_overlap():
    side_by_side = [((0, 4), (0, 5)), ((0, 4), (5, 9)), ((4, 8), (0, 5)), ((4, 5), (5, 6))]
    assert len(FrequencyBands([(band, ChannelGain()) for band in side_by_side]).bands) == 4


@pytest.mark.parametrize("shape", [(2, 11, 6), (2, 11, 13, None)])
def test_wrong_rank_or_unknown_channels(shape):
    message = rf"rank 4 whose number.*Received: input_shape={re.escape(str(shape))} with data_form"
    for item in (FrequencySelfAttention(4), (4, ChannelGain())):
        with pytest.raises(ValueError, match=message):
            FrequencyBands([item]).build(shape)


def test_unknown_channels_first():
    layer = FrequencyBands([(4, ChannelGain())], data_format="channels_first")
    with pytest.raises(ValueError, match="data_format='channels_first'. Reshape the input, or"):
        layer.build((2, None, 11, 6))
    layer.build((2, 6, 11, None))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("item", ["attention", "pair"])
def test_a_band_beyond_a_known_size(data_format, item):
    band = ((0, 4), (0, 14))
    last = FrequencySelfAttention(band, data_format=data_format)
    if item == "pair":
        last = (band, ChannelGain())
    layer = FrequencyBands([(((4, 5), (0, 3)), ChannelGain()), last], data_format=data_format)
    shape = (2, CHANNELS, HEIGHT, WIDTH) if data_format == "channels_first" else SHAPE
    message = r"a width of 13 has the frequencies 0 to 12\. Received: frequencies=\(\(0, 4\), \(0, "
    with pytest.raises(ValueError, match=message):
        layer.build(shape)


@pytest.mark.parametrize(
    ("process", "made"),
    [
        (layers.Dense(5), r"\(None, 20, 5\)"),
        (layers.Flatten(), r"\(None, 120\)"),
        (layers.ZeroPadding1D(1), r"\(None, 22, 6\)"),
        (layers.LSTM(6, return_sequences=True, return_state=True), r"[\[(]<KerasTensor.*"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_process_that_changes_the_shape(process, made):
    layer = FrequencyBands([(BESIDE, ChannelGain()), (LOW, process)])
    message = (
        rf"Received: the process of bands\[1\]=<.*, which maps \(None, 20, 6\) to {made}\. Pro"
    )
    with pytest.raises(ValueError, match=message):
        layer.build(SHAPE)

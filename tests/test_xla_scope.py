"""Where XLA compiles, TensorFlow's layers are traced as sums, not as products."""

import keras
import numpy as np
import pytest

import keras_fsa
from keras_fsa import compilation
from keras_fsa.layers import ChannelGain, FrequencyBands, FrequencySelfAttention
from tests.helpers import BACKEND, array, gradients, randomize
from tests.test_fsanet import pictures_and_masks, tiny

SHAPE = (2, 11, 13, 6)
LAYERS = {
    "dot_product": lambda **kwargs: FrequencySelfAttention(5, recurrence=2, **kwargs),
    "linear_softmax": lambda **kwargs: FrequencySelfAttention(
        5, "linear_softmax", recurrence=2, **kwargs
    ),
    "linear": lambda **kwargs: FrequencySelfAttention((3, 5), "linear", use_bias=True, **kwargs),
    "batch_norm": lambda **kwargs: FrequencySelfAttention(5, residual="batch_norm", **kwargs),
    "no_constant": lambda **kwargs: FrequencySelfAttention(
        ((1, 4), (2, 5)), "linear_softmax", **kwargs
    ),
    "bands": lambda **kwargs: FrequencyBands([(((1, 3), (0, 4)), ChannelGain())], **kwargs),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


def make(name, rng, **kwargs):
    layer = LAYERS[name](**kwargs)
    layer.build(SHAPE)
    return randomize(layer, rng)


@each_layer
def test_values_and_gradients_are_the_same(rng, name):
    layer = make(name, rng, dtype="float64")
    x, upstream = rng.standard_normal((2, *SHAPE))
    outside = [array(layer(x)), *gradients(layer, x, upstream)]
    with keras_fsa.xla_scope():
        inside = [array(layer(x)), *gradients(layer, x, upstream)]
    for a, b in zip(inside, outside, strict=True):
        # The same products are summed in another order; on other backends, nothing changes.
        tolerance = 1e-13 * max(1, np.abs(b).max()) if BACKEND == "tensorflow" else 0
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


if BACKEND == "tensorflow":
    import tensorflow as tf

    def products_as_large_as_a_map(layer, x):
        graph = tf.function(layer, autograph=False).get_concrete_function(x).graph
        products = [op for op in graph.get_operations() if "MatMul" in op.type]
        return sum(op.outputs[0].shape.num_elements() == np.prod(SHAPE) for op in products)

    @each_layer
    def test_no_product_is_as_large_as_a_map(rng, name):
        layer = make(name, rng)
        x = tf.constant(rng.standard_normal(SHAPE, "float32"))
        with keras_fsa.xla_scope():
            assert products_as_large_as_a_map(layer, x) == 0
        assert products_as_large_as_a_map(layer, x) > 0

    @pytest.mark.parametrize(("dtype", "unit"), [("float32", 1e-6), ("mixed_bfloat16", 2**-8)])
    @each_layer
    def test_compiled_for_any_size(rng, name, dtype, unit):
        layer = make(name, rng, dtype=dtype)
        x = tf.constant(rng.standard_normal(SHAPE, "float32"))
        signature = [tf.TensorSpec((None, None, None, SHAPE[-1]), "float32")]
        compiled = tf.function(layer, jit_compile=True, autograph=False, input_signature=signature)
        with keras_fsa.xla_scope():
            inside = array(keras.ops.cast(compiled(x), "float32"))
        outside = array(keras.ops.cast(layer(x), "float32"))
        np.testing.assert_allclose(inside, outside, rtol=0, atol=2 * unit * np.abs(outside).max())

    def test_a_second_gradient(rng):
        layer = make("dot_product", rng)
        x = tf.constant(rng.standard_normal(SHAPE, "float32"))

        def second():
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    loss = tf.reduce_sum(layer(x) ** 2)
                loss = tf.reduce_sum(inner.gradient(loss, x) ** 2)
            return array(outer.gradient(loss, x))

        outside = second()
        with keras_fsa.xla_scope():
            inside = second()
        np.testing.assert_allclose(inside, outside, rtol=0, atol=4e-6 * np.abs(outside).max())


class Watched(keras.layers.Layer):
    """Notes at each call whether it is in the scope: on the class, since exports run a copy."""

    seen = None

    def call(self, x):
        Watched.seen = compilation._in_xla_scope.get()
        return x

    def compute_output_shape(self, input_shape):
        return input_shape


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fsanet_enters_it_where_xla_compiles(rng, jit_compile, tmp_path):
    model = tiny(attention=Watched())
    # torch.compile would take a minute to say that nothing changes.
    model.compile(jit_compile=jit_compile and BACKEND != "torch")
    expected = jit_compile and BACKEND == "tensorflow"
    x, y = pictures_and_masks(rng)
    for run in (
        lambda: model.fit(x, y, verbose=0),
        lambda: model.evaluate(x, y, verbose=0),
        lambda: model.predict(x, verbose=0),
    ):
        Watched.seen = None
        run()
        assert Watched.seen is expected
    if BACKEND == "tensorflow":
        Watched.seen = None
        model.export(tmp_path / "saved_model", verbose=False)
        assert Watched.seen is False
    Watched.seen = None
    model(x)
    assert Watched.seen is False


def test_fsanet_learns_the_same_with_xla(rng):
    x, y = pictures_and_masks(rng)
    logits = []
    for jit_compile in (False, BACKEND != "torch"):
        keras.utils.set_random_seed(1)
        model = tiny(dropout=0.0)
        randomize(model.head.get_layer("attention"), np.random.default_rng(3), 0.1)
        model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
        model.fit(x, y, epochs=2, verbose=0)
        logits.append(model.predict(x, verbose=0))
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-5 * np.abs(logits[0]).max())

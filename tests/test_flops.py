"""The count of operations, by hand and against what the backends count."""

import itertools
import re

import keras
import numpy as np
import pytest

from keras_fsa.flops import attention_flops
from keras_fsa.layers import FrequencySelfAttention, SpatialSelfAttention
from tests import reference

HEIGHT, WIDTH, CHANNELS = 9, 14, 12
OPTIONS = {"recurrence": 2, "key_dim": 5, "data_format": "channels_first"}

FREQUENCY = [
    {"affinity": affinity, "frequencies": frequencies, **options}
    for affinity, frequencies, options in itertools.product(
        reference.SPECTRAL,
        (5, ((2, 5), (0, 6))),
        (
            {},
            {**OPTIONS, "value_dim": 7, "use_bias": True},
            {"num_heads": 3, "recurrence": 2},
            {**OPTIONS, "key_dim": 10, "value_dim": 14, "num_heads": 2},
        ),
    )
]
SPATIAL = [
    {"affinity": affinity, "low_pass": low_pass, **options}
    for affinity, low_pass, options in itertools.product(
        reference.AFFINITIES,
        (None, ((2, 5), (0, 6))),
        ({}, {**OPTIONS, "value_dim": 4}, {"num_heads": 3, "value_dim": 6}),
    )
]
LAYERS = [(FrequencySelfAttention, arguments) for arguments in FREQUENCY] + [
    (SpatialSelfAttention, arguments) for arguments in SPATIAL
]


def test_the_authors_case_by_hand():
    layer = FrequencySelfAttention(frequencies=8, recurrence=2)
    layer.build((None, 97, 97, 512))
    transform = 2 * 97 * 97 * 8 * 512 + 2 * 97 * 64 * 512
    block = 2 * 64 * 512 * (64 + 64 + 512) + 2 * 2 * 64 * 64 * 512
    assert attention_flops(layer, 97, 97) == 2 * transform + 2 * block


def test_regular_attention_by_hand():
    layer = SpatialSelfAttention(key_dim=64, value_dim=256)
    layer.build((None, None, None, 512))
    n = 33 * 41
    maps = 2 * n * 512 * (64 + 64 + 256) + 2 * n * 256 * 512
    assert attention_flops(layer, 33, 41) == maps + 2 * n * n * (64 + 256)


@pytest.mark.parametrize("affinity", reference.SPECTRAL)
@pytest.mark.parametrize("value_dim", [None, 256])
def test_heads_stay_in_the_class_of_cost(affinity, value_dim):
    """Eight heads: no more than one, but where each has a map of its own to be summed."""
    costs = []
    for heads in (1, 8):
        layer = FrequencySelfAttention(
            8, affinity, key_dim=64, value_dim=value_dim, num_heads=heads
        )
        layer.build((None, None, None, 512))
        costs.append(attention_flops(layer, 97, 97))
    regular = SpatialSelfAttention(key_dim=64, value_dim=value_dim, num_heads=8)
    regular.build((None, None, None, 512))
    summed = value_dim is not None and affinity != "dot_product"
    assert costs[1] <= (5.1 if summed else 1.02) * costs[0]
    assert costs[1] < attention_flops(regular, 97, 97) / 20


# Two backends count what they run. Each check is defined where its backend is.

if keras.backend.backend() == "torch":

    @pytest.mark.parametrize(("kind", "arguments"), LAYERS)
    def test_equals_what_torch_runs(kind, arguments):
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        layer = kind(**arguments)
        shape = (1, HEIGHT, WIDTH, CHANNELS)
        if layer.data_format == "channels_first":
            shape = (1, CHANNELS, HEIGHT, WIDTH)
        layer.build(shape)
        # The fused softmax attention of the CPU is not in torch's list of counted operations.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            layer(np.ones(shape, "float32"))
        assert attention_flops(layer, HEIGHT, WIDTH) == counter.get_total_flops()


if keras.backend.backend() == "jax":
    XLA_CASES = [
        (FrequencySelfAttention, {"frequencies": 16, "recurrence": 2}),
        (FrequencySelfAttention, {"frequencies": 16, "affinity": "linear_softmax"}),
        (FrequencySelfAttention, {"frequencies": 16, "affinity": "linear"}),
        (FrequencySelfAttention, {"frequencies": 16, "affinity": "relu_linear"}),
        (SpatialSelfAttention, {"affinity": "softmax", "low_pass": 8}),
        (SpatialSelfAttention, {"affinity": "dot_product"}),
    ]

    @pytest.mark.parametrize(("kind", "arguments"), XLA_CASES)
    def test_agrees_with_xla(kind, arguments):
        import jax

        layer = kind(**arguments)
        x = np.ones((1, 24, 32, 256), "float32")
        layer.build(x.shape)
        # Elementwise work counts here, too. After compiling, XLA leaves out some products.
        xla = jax.jit(layer.__call__).lower(x).cost_analysis()["flops"]
        assert attention_flops(layer, 24, 32) == pytest.approx(xla, rel=0.04)


@pytest.mark.parametrize(
    "layer",
    [keras.layers.Dense(3), FrequencySelfAttention(8)],
    ids=["another layer", "not built"],
)
def test_a_wrong_layer(layer):
    message = (
        r"`layer` must be a built FrequencySelfAttention or SpatialSelfAttention.*Received: layer=<"
        r".*call layer\.build\(input_shape\)\."
    )
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        attention_flops(layer, 9, 9)


@pytest.mark.parametrize("size", [(0, 9), (9, None), (9.0, 9)])
def test_a_wrong_size(size):
    layer = FrequencySelfAttention(2)
    layer.build((None, None, None, 8))
    message = r"`(height|width)` must be a positive int\. Received: (height|width)=.*Give a whole"
    with pytest.raises(ValueError, match=message):
        attention_flops(layer, *size)

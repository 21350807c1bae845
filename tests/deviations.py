"""The largest deviations from float64 and from the published modules: `python -m tests.deviations`.

For each affinity and precision: attention of a random map (2, 29, 37, 64), 8 frequencies, against
the same in float64 NumPy on the same stored input, over the largest output.
"""

import keras
import numpy as np
from keras import ops

from keras_fsa.layers import FrequencySelfAttention
from tests import reference
from tests.helpers import array, randomize, weights_by_name

SHAPE, BAND = (2, 29, 37, 64), ((0, 8), (0, 8))


def deviation(affinity, dtype, residual):
    rng = np.random.default_rng(0)
    width = None if residual == "gain" else 32
    layer = FrequencySelfAttention(
        8, affinity, 2, width, width, residual=residual, dtype=dtype, data_format="channels_last"
    )
    layer.build(SHAPE)
    randomize(layer, rng, 0.1)
    x = ops.cast(ops.convert_to_tensor(rng.standard_normal(SHAPE), "float32"), layer.compute_dtype)
    stored = array(ops.cast(x, "float32"))
    expected = reference.self_attention(stored, weights_by_name(layer), affinity, BAND, 2)
    y = array(ops.cast(layer(x), "float32"))
    return np.abs(y - expected).max() / np.abs(expected).max()


def main():
    dtypes = ("float32", "mixed_float16", "mixed_bfloat16")
    print(f"| {keras.backend.backend()} | {' | '.join(dtypes)} |\n| --- | --- | --- | --- |")
    for residual in ("gain", "batch_norm"):
        for affinity in FrequencySelfAttention.affinities:
            row = [f"{deviation(affinity, dtype, residual):.1e}" for dtype in dtypes]
            print(f"| {affinity}, {residual} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()

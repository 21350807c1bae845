"""The largest deviations from the published modules and from float64: `python -m tests.deviations`.

Of the authors' modules, from their golden results. Then, for each affinity, residual and precision,
of the attention of a random map (2, 29, 37, 64), 8 frequencies, from the same in float64 NumPy on
the same stored input. Outputs over the largest output; running statistics as they are. Prints them,
and writes the largest to benchmarks/results/deviations-ENGINE.json.
"""

import itertools

import numpy as np
from keras import ops

from benchmarks import measuring, results, scoring
from keras_fsa.layers import FrequencySelfAttention
from tests import golden_modules, reference
from tests.helpers import array, randomize, weights_by_name

SHAPE, BAND = (2, 29, 37, 64), ((0, 8), (0, 8))
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


def _over_largest(y, expected):
    return float(np.abs(y - expected).max() / np.abs(expected).max())


def from_module(file):
    """Deviation from a published module: of its output, and of its running statistics."""
    module = golden_modules.module(file)
    y = array(module.layer(module.x, training=module.training))
    statistics = [np.abs(array(weight) - value).max() for weight, value in module.statistics]
    return _over_largest(y, module.y), float(max(statistics, default=0.0))


def from_float64(affinity, residual, dtype):
    """Deviation from the float64 reference."""
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
    return _over_largest(array(ops.cast(layer(x), "float32")), expected)


def main():
    outputs, statistics = [], []
    for file in golden_modules.MODULES:
        output, statistic = from_module(file)
        print(f"{file.stem}: {output:.1e}, running statistics {statistic:.1e}", flush=True)
        outputs.append(output)
        statistics.append(statistic)
    deviations = {
        "from the authors' modules": max(outputs),
        "of running statistics from theirs": max(statistics),
    }
    cases = list(itertools.product(reference.SPECTRAL, ("gain", "batch_norm")))
    for dtype in PRECISIONS:
        found = {case: from_float64(*case, dtype) for case in cases}
        for (affinity, residual), deviation in found.items():
            print(f"{affinity}, {residual}, {dtype}: {deviation:.1e}", flush=True)
        deviations[f"of {dtype} from float64"] = max(found.values())
    result = scoring.circumstances("python -m tests.deviations")
    result["deviations"] = deviations
    scoring.write(results.RESULTS / f"deviations-{measuring.BACKEND}.json", result)


if __name__ == "__main__":
    main()

"""A process of its own that tells the memory of calls, where no allocator or compiler does.

Usage: python -m keras_fsa.benchmark.resident '{"methods": [...], "shape": [...], ...}', which
prints a JSON dict from method to bytes. What a process takes to start, to trace and to compile is
over when each call is measured. Each peak starts from the pages that are resident just before.
"""

import json
import os
import subprocess
import sys


def peak_memory_in_child(methods, shape, frequencies, dtype, training, mode):
    """Bytes of each method.

    Raises:
        RuntimeError: where the child ends without an answer, with its output.
    """
    names = ("methods", "shape", "frequencies", "dtype", "training", "mode")
    values = (list(methods), list(shape), frequencies, dtype, training, mode)
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(dict(zip(names, values, strict=True)))],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            "The process that measures memory must end with an answer. Received: exit status "
            f"{done.returncode}. Read its output: {done.stdout}{done.stderr}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def main(methods, shape, frequencies, dtype, training, mode):
    from keras_fsa.benchmark import measuring
    from keras_fsa.benchmark.methods import make_layer

    peaks = {}
    for name in methods:
        layer = make_layer(name, shape, frequencies, dtype, training)
        x = measuring.make_map(shape, layer.dtype_policy.name)
        call = measuring.Call(layer, x, training, mode)
        call.run()
        peaks[name] = measuring.resident_peak(call.run)
        call = layer = x = None
    print(json.dumps(peaks))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))

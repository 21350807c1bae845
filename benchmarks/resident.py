"""A process of its own that tells the memory of a call, where no allocator or compiler does.

Usage: python -m benchmarks.resident '{"name": METHOD, "shape": [...], ...}', which prints
a number of bytes: by how much the call raises the peak of the process' resident pages.

It is the call's second run, when all is traced and compiled. The first one's memory must be given
back by then: oneDNN, whose pool keeps it, is off. XLA does not use oneDNN; TensorFlow's own kernels
may, and then take another amount than measured here.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import measuring
from benchmarks.methods import make_layer


def peak_memory_in_child(
    name: str, shape: tuple, frequencies: int, dtype: str, training: bool, mode: str
) -> int:
    """Bytes of one call of a method.

    Raises:
        RuntimeError: where the child ends without an answer, with its output.
    """
    call = {"name": name, "shape": list(shape), "frequencies": frequencies}
    call.update(dtype=dtype, training=training, mode=mode)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.resident", json.dumps(call)],
        # Large buffers stay out of the heap, where they could reuse pages that count already.
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            "The process that measures memory must end with an answer. Received: exit status "
            f"{done.returncode}. Read its output: {done.stdout}{done.stderr}"
        )
    return int(done.stdout.splitlines()[-1])


def main(name: str, shape: tuple, frequencies: int, dtype: str, training: bool, mode: str) -> None:
    """Print the peak memory of one method's call, in a process of its own."""
    layer = make_layer(name, shape, frequencies, dtype, training)
    x = measuring.make_map(tuple(shape), layer.dtype_policy.name)
    call = measuring.Call(layer, x, training, mode)
    call.run()
    print(resident_peak(call.run))


def resident_peak(run: Callable) -> int:
    """Bytes by which a function's call raises the peak of the process' resident pages. Linux."""

    def status(key):
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    gc.collect()
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # The kernel's word for: forget the peak.
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))

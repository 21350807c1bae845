"""Run the tests on every backend: `python -m tests [pytest arguments]`.

A backend that is missing fails; none is skipped. As many run at a time as there are cores, with one
thread each: the tests are many and small.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# The slowest first.
BACKENDS = ("jax", "tensorflow", "torch")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


def run(backend):
    """Whether the tests pass on a backend. What they print comes when they are done."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *sys.argv[1:]],
        env={**ONE_THREAD, **os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    minutes = (time.monotonic() - start) / 60
    print(f"\n=== KERAS_BACKEND={backend}, {minutes:.1f} minutes\n{done.stdout}", flush=True)
    return done.returncode == 0


def main():
    count = min(len(BACKENDS), os.cpu_count() or 1)
    print(f"Testing on {', '.join(BACKENDS)}, {count} at a time ...", flush=True)
    with ThreadPoolExecutor(count) as pool:
        passed = dict(zip(BACKENDS, pool.map(run, BACKENDS), strict=True))
    failed = [backend for backend in BACKENDS if not passed[backend]]
    print(f"\nfailed on: {', '.join(failed)}" if failed else "\nAll backends passed.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

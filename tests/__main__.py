"""Run the tests on every backend: `python -m tests [--coverage] [pytest arguments]`.

A backend that is missing fails; none is skipped. As many runs go at a time as there are cores, with
one thread each: the tests are many and small. Without arguments, the attacks in `tests/attack` run
too, and what is marked `once` runs on one backend. With `--coverage`, which takes a quarter longer,
the share of covered lines is reported.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# In how many runs each backend's tests go, the longest runs first. JAX takes as long as the rest;
# and under TensorFlow every compiled training step stays in memory until its process ends, ten
# gigabytes by the last test.
PARTS = {"jax": 2, "torch": 2, "tensorflow": 4}
# What a test marked `once` runs on: torch, where models are ready at once, or what the mark names.
MARKED = {
    "jax": "not once",
    "torch": "not once(engine='tensorflow')",
    "tensorflow": "not once or once(engine='tensorflow')",
}
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    # Under JAX most of the time goes into compiling what then runs for a millisecond. Pytest alone
    # compiles as users do.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}
# A third less of that time.
COMPILE_FASTER = " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

ARGUMENTS = [argument for argument in sys.argv[1:] if argument != "--coverage"]
COVERED = ["-m", "coverage", "run"] if "--coverage" in sys.argv else []


def runs() -> list[tuple[str, list[str]]]:
    """Pairs of a backend and pytest's arguments."""
    if ARGUMENTS:
        return [(backend, ARGUMENTS) for backend in PARTS]
    files = sorted(str(path) for path in Path(__file__).parent.rglob("test_*.py"))
    return [
        (backend, [*files[part::parts], "-m", MARKED[backend]])
        for backend, parts in PARTS.items()
        for part in range(parts)
    ]


def settings() -> dict[str, str]:
    """The environment of the runs. XLA ends a process whose flags it does not know."""
    flags = SETTINGS["XLA_FLAGS"] + COMPILE_FASTER
    code = [sys.executable, "-c", "import jax; jax.devices()"]
    known = subprocess.run(code, capture_output=True, env={**os.environ, "XLA_FLAGS": flags})
    faster = {"XLA_FLAGS": flags} if known.returncode == 0 else {}
    return {**SETTINGS, **faster, **os.environ}


def run(backend: str, arguments: list[str], environment: dict[str, str]) -> bool:
    """Whether the tests pass on a backend. Their output is printed when they are done."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *COVERED, "-m", "pytest", *arguments],
        env={**environment, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    minutes = (time.monotonic() - start) / 60
    print(f"\n=== KERAS_BACKEND={backend}, {minutes:.1f} minutes\n{done.stdout}", flush=True)
    return done.returncode == 0


def main() -> int:
    """Run all; 1 if any backend failed."""
    count = min(len(PARTS), os.cpu_count() or 1)
    print(f"Testing on {', '.join(PARTS)}, {count} at a time ...", flush=True)
    todo, environment = runs(), settings()
    with ThreadPoolExecutor(count) as pool:
        passed = list(pool.map(lambda one: run(*one, environment), todo))
    for command in (["combine", "-q"], ["report"]) if COVERED else ():
        subprocess.run([sys.executable, "-m", "coverage", *command])
    failed = {backend for (backend, _), good in zip(todo, passed, strict=True) if not good}
    print(f"\nfailed on: {', '.join(sorted(failed))}" if failed else "\nAll backends passed.")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

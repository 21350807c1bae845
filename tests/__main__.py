"""Run the tests on every backend: `python -m tests [pytest arguments]`.

A backend that is missing fails; none is skipped.
"""

import os
import subprocess
import sys

BACKENDS = ("tensorflow", "jax", "torch")


def main():
    failed = []
    for backend in BACKENDS:
        print(f"\n=== KERAS_BACKEND={backend}", flush=True)
        environment = {**os.environ, "KERAS_BACKEND": backend}
        command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
        if subprocess.run(command, env=environment).returncode:
            failed.append(backend)
    print(f"\nfailed on: {', '.join(failed)}" if failed else "\nAll backends passed.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

"""One environment for each engine: `python -m tests.environments [--only NAME ...] [--torch REQ]`.

Users install one engine, not three. This builds the wheel, makes a fresh virtual environment for
each line of the table, installs the wheel with that extra, and runs `one_engine.py` there. Then
each environment opens the files that the others have trained.

| name       | installed                          |
| ---------- | ---------------------------------- |
| tensorflow | `keras_fsa[tensorflow,tools]`      |
| jax        | `keras_fsa[jax,tools]`             |
| torch      | `keras_fsa[torch,tools]`           |
| all        | `keras_fsa[tensorflow,jax,torch,tools]`, tested on each engine |

On Linux the package index gives torch with CUDA, on any machine; `--torch "torch==2.13.0"` names
another build. Everything lies in a temporary folder, or in `--folder`, where it stays.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENGINES = ("tensorflow", "jax", "torch")
NAMES = (*ENGINES, "all")


def main() -> int:
    """Print a table of what ran where; 1 if anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--torch", default="torch", help="pip requirement of torch")
    parser.add_argument("--folder", type=Path, help="where to work, and to leave everything")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        (wheel,) = build_wheel(folder / "dist")
        rows = []
        pythons = {}
        for name in options.only:
            start = time.monotonic()
            pythons[name] = make_environment(folder / name, name, wheel, options.torch)
            rows.append((name, "install", True, time.monotonic() - start))
        places = [
            (name, engine) for name in pythons for engine in (ENGINES if name == "all" else (name,))
        ]
        files = folder / "files"
        files.mkdir(exist_ok=True)
        for step in ("work", "travel"):
            for name, engine in places:
                rows.append(
                    (name, f"{step} on {engine}", *run(pythons[name], name, engine, step, files))
                )
    print("\n| environment | step | outcome | seconds |\n| --- | --- | --- | ---: |")
    for name, step, good, seconds in rows:
        print(f"| {name} | {step} | {'passed' if good else 'FAILED'} | {seconds:.0f} |")
    return int(not all(good for _, _, good, _ in rows))


def build_wheel(folder: Path) -> list[Path]:
    """The wheel of this tree, built as a release is."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    return sorted(folder.glob("keras_fsa-*.whl"))[-1:]


def make_environment(folder: Path, name: str, wheel: Path, torch: str) -> Path:
    """A fresh virtual environment with the wheel and its extras; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    extras = ",".join(ENGINES if name == "all" else (name,))
    wanted = [f"{wheel}[{extras},tools]", *([torch] if name in ("torch", "all") else [])]
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    return python


def run(python: Path, name: str, engine: str, step: str, files: Path) -> tuple[bool, float]:
    """One step in one environment; whether it passed, and how long it took."""
    start = time.monotonic()
    print(f"=== {name}: {step} on {engine}", flush=True)
    done = subprocess.run(
        [python, ROOT / "tests/one_engine.py", step, name, engine, files],
        # Not in the tree: what is imported is what was installed.
        cwd=files,
        env={**os.environ, "KERAS_BACKEND": engine, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": ""},
    )
    return done.returncode == 0, time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())

"""Print which engines work here, what is missing for what, and the command that fixes it.

    keras_fsa doctor [--timeout 120]

Each engine is started in a process of its own, with a time limit: two of them in one process can
conflict, and such conflicts are what this looks for. The exit code is 1 if the chosen engine does
not work.

Only the standard library is needed, so `python keras_fsa/commands/doctor.py` runs where even
`import keras_fsa` fails.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ENGINES = {
    "tensorflow": "import tensorflow as e; names = [d.device_type + d.name[-2:] for d in "
    "e.config.list_physical_devices()]",
    "jax": "import jax as e; names = [str(d) for d in e.devices()]",
    "torch": "import torch as e; names = ['CPU'] + [e.cuda.get_device_name(i) for i in "
    "range(e.cuda.device_count())] + ['MPS'] * e.backends.mps.is_available()",
}
# Keras' engines that have no training.
PREDICTING = ("numpy", "openvino")
# How each engine comes with CUDA.
GPU_INSTALL = {
    "tensorflow": 'pip install "tensorflow[and-cuda]"',
    "jax": 'pip install "jax[cuda13]"   (or "jax[cuda12]", by the driver)',
    "torch": "pip install torch   (on Linux it has CUDA; a build named +cpu has not)",
}
# Its builds, of which one is enough.
OPENCV = tuple(
    f"opencv{kind}-python{view}" for view in ("-headless", "") for kind in ("", "-contrib")
)
# What for, the packages as pip names them, the extra.
USES = (
    ("the command line, drawings, scores", ("tyro", "pillow", "matplotlib", "scipy"), "tools"),
    ("trainings: data, one process on an output", (OPENCV[0], "filelock"), "tools"),
    (
        "datasets by name (cityscapes, ade20k, voc_aug)",
        ("tensorflow", "tensorflow-datasets", "importlib_resources"),
        "datasets",
    ),
    ("logs for TensorBoard", ("tensorboard",), "examples"),
    (".safetensors files of weights", ("safetensors",), "weights"),
    ("SavedModel and LiteRT files", ("tensorflow",), "tensorflow"),
    ("ONNX files, from TensorFlow", ("tensorflow", "tf2onnx", "onnxruntime"), "export"),
    ("ONNX files, from JAX", ("jax", "jax2onnx", "onnxruntime"), "export"),
    ("OpenVINO files", ("tensorflow", "openvino"), "export"),
)
LOWEST_PYTHON, LOWEST_KERAS = (3, 11), (3, 15)


def main(arguments: Sequence[str] | None = None, program: str = "keras_fsa doctor") -> None:
    """Print the report.

    Raises:
        SystemExit: with code 1 if the chosen engine does not work.
    """
    parser = argparse.ArgumentParser(program, description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--timeout", type=_seconds, default=120, help="seconds to wait for an engine; default: 120"
    )
    timeout = parser.parse_args(arguments).timeout
    versions = {name: version(name) for name in ("keras_fsa", "keras", "numpy", *ENGINES)}
    chosen, reason = chosen_engine()
    print(f"Python {platform.python_version()} on {platform.platform()}")
    for name in ("keras_fsa", "keras", "numpy"):
        print(f"{name} {versions[name] or 'is not installed'}")
    print(f"Keras' engine: {chosen} ({reason})\n")

    advice, works = [], {}
    gpus = nvidia_gpus()
    print("Engines")
    for name, code in ENGINES.items():
        if not versions[name]:
            print(f"  {name:<11} not installed")
            continue
        found = probe(code + "; import json; print(json.dumps(names))", timeout)
        works[name] = isinstance(found, list)
        print(f"  {name:<11} {versions[name]:<14} {', '.join(found) if works[name] else found}")
        if works[name] and gpus and not sees_gpu(name, found):
            advice.append(
                f"{name} sees no GPU, though there is one ({gpus[0]}). {GPU_INSTALL[name]}"
            )
    works |= {name: version(name) is not None for name in PREDICTING}
    fault = "" if works.get(chosen) else "does not work"
    if chosen in PREDICTING and not fault:
        fault = "predicts, and does not train"
    if fault:
        extra = chosen if chosen in ENGINES else "torch"
        others = [f"export KERAS_BACKEND={name}" for name in ENGINES if works.get(name)]
        mend = "   or   ".join([*others[:1], f'pip install "keras_fsa[{extra}]"'])
        advice.insert(0, f"Keras' engine {chosen} {fault}. {mend}")

    print("\nWhat for")
    for what, packages, extra in USES:
        missing = [name for name in packages if not version(name)]
        state = (
            f'lacks {", ".join(missing)}: pip install "keras_fsa[{extra}]"' if missing else "there"
        )
        print(f"  {what:<48} {state}")

    advice += old_versions(versions) + conflicts(versions, timeout)
    print("\nTo mend" if advice else "\nNothing to mend.")
    for line in advice:
        print(f"  - {line}")
    if not works.get(chosen):
        raise SystemExit(1)


def _seconds(text):
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 3600, not {text}")
    return value


def version(package: str) -> str | None:
    """The installed version of a package, or None. Nothing is imported."""
    names = {"tensorflow": ("tensorflow", "tensorflow-cpu", "tf-nightly"), OPENCV[0]: OPENCV}
    for name in names.get(package, (package,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if package == "keras_fsa":  # run from its folder
        text = (Path(__file__).parents[1] / "__init__.py").read_text()
        return text.partition('__version__ = "')[2].partition('"')[0]
    return None


def chosen_engine() -> tuple[str, str]:
    """The engine that Keras uses, and why."""
    if engine := os.environ.get("KERAS_BACKEND"):
        return engine, "by KERAS_BACKEND"
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        return json.loads((home / "keras.json").read_text())["backend"], f"by {home}/keras.json"
    except (OSError, ValueError, KeyError):
        return "tensorflow", "Keras' default; KERAS_BACKEND chooses another"


def probe(code: str, timeout: float) -> list[str] | str:
    """The JSON that code prints in a process of its own, or briefly why it does not."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return f"did not start within {timeout:g} seconds"
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return f"does not import: {lines[-1][:200]}"


def nvidia_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver sees."""
    if not shutil.which("nvidia-smi"):
        return []
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def sees_gpu(engine: str, devices: Sequence[str]) -> bool:
    """Whether one of an engine's devices is not the CPU."""
    return any("CPU" not in name.upper() for name in devices)


def old_versions(versions: dict) -> list[str]:
    """Advice for versions that are too old."""
    advice = []
    if sys.version_info < LOWEST_PYTHON:
        advice.append("Python is too old: Keras 3.15 needs 3.11. Make an environment with it.")
    if versions["keras"] is None:
        advice.append('Keras is missing. pip install "keras>=3.15"')
    elif tuple(map(int, versions["keras"].split(".")[:2])) < LOWEST_KERAS:
        advice.append('Keras is too old: 3.15 is the lowest that works. pip install "keras>=3.15"')
    return advice


def conflicts(versions: dict, timeout: float) -> list[str]:
    """Advice for packages that do not go together."""
    advice = []
    if versions["tensorflow"] and version("triton"):
        # Seen, not guessed from versions: one of them will be mended one day.
        found = probe("import tensorflow, triton; print('[]')", timeout)
        if not isinstance(found, list):
            advice.append(
                f"TensorFlow {versions['tensorflow']}, then triton {version('triton')} in one "
                "process aborts it (LLVM options registered twice). Import torch before "
                "tensorflow: python -c 'import torch, triton, tensorflow'; or keep one engine in "
                "an environment. Nothing of keras_fsa imports triton behind TensorFlow."
            )
    if version("keras-cv") and not versions["tensorflow"]:
        advice.append(
            "keras-cv imports TensorFlow, which is missing. keras_fsa does without: pip uninstall "
            "keras-cv"
        )
    return advice


if __name__ == "__main__":
    main()

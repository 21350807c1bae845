"""The page of results: drawn from the files that there are, and from no others."""

import json

import numpy as np
import pytest

from benchmarks import results, sections
from tests import deviations, golden_modules
from tests.helpers import BACKEND

RUN = {"seed": 0, "date": "2026-12-01T00:00:00", "iou": {"inbound": 0.25, "outbound": 0, "mean": 1}}


@pytest.mark.once
def test_the_page_is_drawn():
    assert results.PAGE.read_text() == results.draw(results.TEMPLATE.read_text()), (
        "Result files, template or sections changed. Run: python -m benchmarks.results"
    )
    text = results.TEMPLATE.read_text()
    assert all(f"{{{{ {name} }}}}" in text for name in sections.SECTIONS)


@pytest.mark.once
def test_a_section_that_is_missing():
    with pytest.raises(ValueError, match=r"must name a section. Received: 'nonsense'\."):
        results.draw("{{ nonsense }}")


@pytest.mark.once
def test_sections_without_results(tmp_path):
    for name in sections.SECTIONS.keys() - {"speed", "savings", "rivals"}:
        assert sections.SECTIONS[name](tmp_path) == "*Not run yet.*"


@pytest.mark.once
def test_the_quickstart_on_each_engine(tmp_path):
    other = {**RUN, "seed": 1, "iou": {**RUN["iou"], "inbound": 0.5}}
    runs = [
        {**run, "method": method}
        for method in ("none", "copy", "dot_product")
        for run in (RUN, other)
    ]
    for engine in ("jax", "torch"):
        file = {
            "backend": engine,
            "versions": {engine: "1"},
            "runs": runs[: 4 if engine == "jax" else 6],
        }
        (tmp_path / f"{engine}-use.json").write_text(json.dumps(file))
    lines = sections.harbor(tmp_path).splitlines()
    figures = "0, 1 | 0.375 (0.250) | 0.000 (0.000) | 1.000 (0.000) |"
    assert lines[2:5] == [
        f"| {row} | {figures}" for row in ("JAX, without", "torch, without", "torch, with")
    ]
    assert lines[-1] == "2026-12-01; jax 1, torch 1."


@pytest.mark.once
def test_a_matrix_is_one_command():
    command = "python -m benchmarks.camvid --data-dir CamVid --run"
    made = sections.made(
        {"date": "2026-12-01", "versions": {}, "command": f"{command} {run} --seed {seed}"}
        for run in ("none", "aspp")
        for seed in (0, 1)
    )
    assert made.count("`") == 2 and f"`{command} RUN --seed SEED`" in made


def test_deviations(tmp_path, monkeypatch):
    """Printed, written, and drawn: the largest of each kind."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(deviations, "PRECISIONS", ("float32",))
    monkeypatch.setattr(deviations, "SHAPE", (1, 11, 13, 16))
    found = {("dot_product", "gain"): 1e-8, ("linear", "batch_norm"): 3e-8}
    monkeypatch.setattr(
        deviations,
        "from_float64",
        lambda affinity, residual, dtype: found.get((affinity, residual), 2e-8),
    )
    files = [
        file for file in golden_modules.MODULES if file.stem in ("ccnet_dot_r1", "mmseg_dot_train")
    ]
    monkeypatch.setattr(golden_modules, "MODULES", files)
    deviations.main()
    largest = max(deviations.from_module(file)[0] for file in files)
    assert 0 < largest < 1e-5
    text = sections.exactness(tmp_path)
    engine = {"tensorflow": "TensorFlow", "jax": "JAX"}.get(BACKEND, BACKEND)
    assert text.startswith(f"| largest deviation | {engine} |")
    assert f"| from the authors' modules | {largest:.1e} |" in text
    assert "| of float32 from float64 | 3.0e-08 |" in text


def test_deviation_from_float64():
    """That of the precision, not of another computation."""
    single, half = (
        deviations.from_float64("linear_softmax", "gain", dtype)
        for dtype in ("float32", "mixed_float16")
    )
    assert 0 < single < 1e-6 < np.finfo("float16").eps / 4 < half < np.finfo("float16").eps

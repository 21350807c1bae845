"""examples/understand_fsa.py: what it prints is right, and its images are drawn."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_fsa.datasets.signal_harbor import INBOUND, OUTBOUND, draw_scene, scene_rng
from keras_fsa.layers import FrequencySelfAttention

pytestmark = pytest.mark.once

SCRIPT = str(Path(__file__).parent.parent / "examples" / "understand_fsa.py")


def test_script(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["understand_fsa.py", "--output", str(tmp_path)])
    runpy.run_path(SCRIPT, run_name="__main__")
    out = capsys.readouterr().out
    assert "tokens (1, 64, 11)" in out
    differences = [float(x) for x in re.findall(r"differ\s+by (\S+e-\d+)", out)]
    # Four affinities and one row of the table: outputs of up to two, in steps of 2.4e-7. By how
    # many of them sums in another order differ depends on the processor: 1.1e-6 without AVX-512.
    assert len(differences) == 5 and max(differences) < 2e-6
    assert out.count("100% of") == 2
    flops = re.search(r"frequency, dot product +([\d.]+) +217\n", out)
    assert flops and float(flops[1]) < 1
    for name in ("spectrum", "truncation", "attention", "boats", "understand"):
        assert Image.open(tmp_path / f"{name}.png").size[0] > 1000


@pytest.mark.parametrize("signal", ["green", "red"])
def test_boats_are_named_by_the_lamp_alone(signal):
    functions = runpy.run_path(SCRIPT)
    layer = functions["attention_layer"](FrequencySelfAttention, frequencies=8)
    for index in range(3):
        _, mask = draw_scene(scene_rng("train", index), signal)
        kinds = functions["without_kinds"](mask)
        assert not np.isin(kinds, (INBOUND, OUTBOUND)).any()
        np.testing.assert_array_equal(functions["name_boats"](layer, mask), mask)
    # Without values there is nothing to tell them apart.
    layer.value_kernel.assign(0 * layer.value_kernel)
    assert not (functions["name_boats"](layer, mask) == INBOUND).any()

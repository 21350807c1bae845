"""The notebooks run from top to bottom."""

import json
from pathlib import Path

import matplotlib as mpl
import pytest

pytestmark = pytest.mark.once

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook(path, tmp_path, monkeypatch):
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), path.name, "exec"), names)
            # They were run before they were committed, and no cell of them failed.
            assert all(output["output_type"] != "error" for output in cell["outputs"])

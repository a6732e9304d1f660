"""The examples with trainers run as they stand and learn what they are to learn."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {
    "lightning_module": "lightning",
    "transformers_trainer": "transformers",
    "accelerate_loop": "accelerate",
    "timm_factory": "timm",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NEEDS)
def test_it_learns(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip(NEEDS[name])
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    right = float(re.search(r"([\d.]+)%", capsys.readouterr().out)[1])
    assert right > 85
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"

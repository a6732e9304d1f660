"""The examples run as they stand and print what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_quickstart_learns_to_read_digits():
    run = subprocess.run(
        [sys.executable, EXAMPLES / "quickstart.py"], capture_output=True, text=True, check=True, timeout=120
    )
    accuracy = float(re.search(r"([\d.]+)%", run.stdout)[1])
    assert accuracy > 90
    code = (EXAMPLES / "quickstart.py").read_text("utf-8").splitlines()
    assert sum(bool(line.strip()) for line in code) <= 20


def test_svgd_learns_to_read_digits_where_there_is_no_mnist():
    environment = {name: value for name, value in os.environ.items() if name != "VARIGRAD_DATA"}
    command = [sys.executable, EXAMPLES / "svgd_mnist.py", "400"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=environment)
    assert "stand in for it" in run.stdout
    assert float(re.search(r"([\d.]+)%", run.stdout)[1]) > 90

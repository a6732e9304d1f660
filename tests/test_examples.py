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


def transformer(folder: Path, processes: int, *arguments: str) -> list[str]:
    """What the transformer prints on so many processes; one is started by Python itself."""
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    small = ["--batch-size", "4", "--context", "8", "--width", "8", "--folder", folder]
    run = subprocess.run(
        [sys.executable, *launcher, EXAMPLES / "torchrun_transformer.py", *small, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={key: value for key, value in os.environ.items() if key != "VARIGRAD_DATA"} | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_transformer_goes_on_from_its_last_whole_checkpoint(tmp_path):
    """In 16 bits, where what is rounded at random must be rounded as if nothing had happened."""
    command = ("--bfloat16", "--steps", "20", "--save-every", "10")
    first, *unbroken = transformer(tmp_path, 2, *command)
    assert first == "2 process(es), from step 0"
    assert [line.partition(":")[0] for line in unbroken] == ["step 10", "step 20"]
    (tmp_path / "20" / ".metadata").unlink()  # as if the processes had been killed while they wrote it
    assert transformer(tmp_path, 2, *command) == ["2 process(es), from step 10", unbroken[1]]
    alone = transformer(tmp_path, 1, "--bfloat16", "--steps", "30")
    assert alone[0] == "1 process(es), from step 20"
    assert 0 < float(alone[1].removeprefix("step 30: loss ")) < 5

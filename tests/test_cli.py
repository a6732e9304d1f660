import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from varigrad import __version__
from varigrad.cli import app
from varigrad.lab.engines import execute
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.tasks import TASKS

from .lab.made_data import cifar10_folder, mnist_folder, names

QUICK = [
    "compare",
    "--workers",
    "1",
    *("--optimizers", "vsgd,sgd"),
    "--lr",
    "0.01,0.03",
    "--steps",
    "8",
    "--seeds",
    "2",
]


@pytest.fixture(autouse=True)
def _nothing_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("VARIGRAD_DATA", raising=False)
    monkeypatch.setenv("VARIGRAD_STORE", str(tmp_path_factory.mktemp("store")))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The one line with which the arguments are refused."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("varigrad: error: ")
    return lines[0]


def test_compare_shows_a_table_and_writes_everything(tmp_path: Path) -> None:
    result = invoke(*QUICK, "--out", tmp_path / "deep" / "out", "--json", tmp_path / "result.json")
    assert result.exit_code == 0, result.output
    assert re.search(r"^vsgd +\d\.\d{4} ± \d\.\d{4} ", result.stdout, re.MULTILINE)
    assert "Highest test accuracy: " in result.stdout
    assert re.search(r"^sgd: best lr 0.0[13], test accuracy .* \(4 runs, \d+ s\)$", result.stderr, re.MULTILINE)
    out = tmp_path / "deep" / "out"
    assert {"comparison.json", "curves.png", "learning-rates.png", "report.html", "table.tex"} <= set(names(out))
    assert (tmp_path / "result.json").read_bytes() == (out / "comparison.json").read_bytes()
    for path in (*out.iterdir(), tmp_path / "result.json"):
        assert f"Wrote {path}\n" in result.stdout


TIMES = {"optimizer_ms_per_step", "steps_per_second", "seconds", "provenance"}


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_the_same_command_gives_the_same_record_but_for_times(tmp_path: Path) -> None:
    records = []
    for name in ("first.json", "second.json"):
        assert invoke(*QUICK, "--store", tmp_path / name[:5], "--json", tmp_path / name).exit_code == 0
        records.append(json.loads((tmp_path / name).read_text()))
    assert records[0] != records[1]
    assert without_times(records[0]) == without_times(records[1])
    assert records[0]["settings"]["seeds"] == [0, 1]
    assert records[0]["settings"]["learning_rates"] == [0.01, 0.03]
    assert records[0]["provenance"]["threads"] == "1"


def test_options_reach_the_runs(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = ["--seeds", "7,2", "--weight-decay", "0.1", "--schedule", "constant", "--threads", "2", "--device", "cpu"]
    done = invoke(*QUICK, *options, "--autocast", "--json", file)
    assert done.exit_code == 0
    assert "constant schedule, autocast to bfloat16" in " ".join(done.stdout.split())
    record = json.loads(file.read_text())
    assert record["settings"]["seeds"] == [7, 2]
    assert record["settings"]["weight_decay"] == 0.1
    assert record["settings"]["schedule"] == "constant"
    assert record["settings"]["autocast"] is True
    assert record["provenance"]["threads"] == "2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "digit"], "unknown task 'digit': did you mean 'digits'? (known: digits, mnist-mlp, mnist-mlp4, "),
        (["--optimizers", "vsgd,adamv"], "unknown optimizer 'adamv': did you mean 'adam"),
        (["--optimizers", ","], "--optimizers ',': no names"),
        (["--optimizers", "sgd,sgd"], "--optimizers sgd,sgd: sgd stands there twice"),
        (["--lr", "fast"], "--lr 'fast' is not a number"),
        (["--lr", "nan"], "--lr nan is out of range (accepted: numbers above 0"),
        (["--lr", "-1"], "--lr -1 is out of range"),
        (["--lr", "0"], "--lr 0 is out of range"),
        (["--lr", "inf"], "--lr inf is out of range"),
        (["--lr", ""], "--lr '': no learning rate"),
        (["--lr", "0.1,1e-1"], "0.1 stands there twice"),
        (["--seeds", "0"], "--seeds 0 is out of range (accepted: how many, 1 to 1000"),
        (["--seeds", "-3"], "--seeds -3 is out of range"),
        (["--seeds", "1,1"], "--seeds 1,1: 1 stands there twice"),
        (["--seeds", "1,-1"], "--seeds 1,-1 is out of range"),
        (["--seeds", "two"], "--seeds 'two': not a whole number"),
        (["--steps", "0"], "--steps 0 is out of range (accepted: a whole number from 1"),
        (["--steps", "-5"], "--steps -5 is out of range"),
        (["--steps", "many"], "--steps 'many' is not a whole number"),
        (["--weight-decay", "-1"], "--weight-decay -1 is out of range"),
        (["--weight-decay", "nan"], "--weight-decay nan is out of range"),
        (
            ["--schedule", "linear"],
            "--schedule 'linear' does not exist (accepted: cosine, constant, onecycle, paper, or",
        ),
        (["--device", "abacus"], "device 'abacus' is not available here (accepted: auto, cpu"),
        (["--device", "cuda:99"], "device 'cuda:99' is not available here"),
        (["--threads", "0"], "--threads 0 is out of range (accepted: a whole number from 1 to 1024)"),
        (["--sneeds", "3"], "No such option: --sneeds"),
        (["--weight-decay", "some"], "--weight-decay 'some' is not a number"),
        (["--threads", "2.5"], "--threads '2.5' is not a whole number"),
        (["extra"], "extra"),
    ],
)
def test_bad_input_is_one_line_before_training(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(execute, "train", lambda *args: pytest.fail("training has started"))
    monkeypatch.chdir(tmp_path)
    assert message in refused("compare", *arguments, "--out", "out", "--json", "result.json")
    assert names(tmp_path) == []


def test_an_option_without_its_value() -> None:
    assert "'--lr' requires an argument" in refused("compare", "--lr")


def test_unknown_command() -> None:
    assert "No such command 'compar'. Did you mean 'compare'" in refused("compar")


def test_bad_paths_are_one_line_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "train", lambda *args: pytest.fail("training has started"))
    (tmp_path / "file").write_text("kept")
    assert "does not exist" in refused("compare", "--json", tmp_path / "missing" / "result.json")
    assert "not a regular file" in refused("compare", "--json", tmp_path)
    assert "is not a directory" in refused("compare", "--out", tmp_path / "file")
    assert "no such folder" in refused("compare", "--data-dir", tmp_path / "missing")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_folders_without_data_and_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(*arguments: object) -> str:
        result = invoke("compare", "--task", "mnist-mlp", *arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        heading, line = result.stderr.splitlines()
        assert heading.startswith("mnist-mlp: ")
        assert line.startswith("varigrad: error: ")
        return line

    assert f"no train data of ylecun/mnist in {tmp_path}: expected" in error("--data-dir", tmp_path)
    monkeypatch.setenv("VARIGRAD_DATA", str(tmp_path / "nowhere"))
    assert f"no train data of ylecun/mnist in {tmp_path / 'nowhere'}" in error()
    path = mnist_folder(tmp_path) / "ylecun" / "mnist" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    assert f"cannot read {path}" in error("--data-dir", tmp_path, "--json", tmp_path / "result.json")
    assert names(tmp_path) == ["ylecun"]


@pytest.mark.parametrize(("task", "made"), [("mnist-mlp", mnist_folder), ("cifar10-cnn", cifar10_folder)])
def test_tasks_on_a_folder(task: str, made, tmp_path: Path) -> None:
    arguments = [
        "--task",
        task,
        "--data-dir",
        made(tmp_path),
        "--threads",
        "1",
        "--workers",
        "1",
        "--optimizers",
        "vsgd",
    ]
    result = invoke("compare", *arguments, "--lr", "0.01", "--steps", "2", "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert "a single seed" in result.stdout


def test_a_diverging_rate_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    result = invoke(
        "compare",
        "--workers",
        "1",
        "--optimizers",
        "sgd",
        "--lr",
        "1e9",
        "--steps",
        "20",
        "--seeds",
        "2",
        "--json",
        file,
    )
    assert result.exit_code == 0, result.output
    assert "sgd: 2 of 2 runs diverged" in result.stdout
    assert json.loads(file.read_text())["optimizers"][0]["test_loss"] == {"mean": None, "std": None}


def test_interruption_is_one_line_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "train", interrupt)
    result = invoke("compare", "--workers", "1", "--out", tmp_path / "out", "--json", tmp_path / "result.json")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[1:] == ["varigrad: interrupted"]
    assert names(tmp_path) == []


def test_compare_goes_on_and_makes_no_run_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, left = execute.train, [3]

    def three_times(*arguments: object) -> object:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return train(*arguments)

    monkeypatch.setattr(execute, "train", three_times)
    store, file = tmp_path / "store", tmp_path / "result.json"
    assert invoke(*QUICK, "--store", store, "--json", file).exit_code == 130
    assert not file.exists()
    listed = invoke("runs", "--store", store).stdout
    assert listed.count(" done ") == 3
    assert "4 runs in " in listed
    left[0] = 5
    assert invoke(*QUICK, "--store", store, "--json", file).exit_code == 0
    assert left == [0]
    first = file.read_bytes()
    assert invoke(*QUICK, "--store", store, "--json", file).exit_code == 0
    assert json.loads(file.read_bytes())["optimizers"] == json.loads(first)["optimizers"]  # times and all


def test_runs_are_listed_filtered_and_removed(tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert invoke(*QUICK, "--store", store).exit_code == 0

    def runs(*arguments: object) -> list[list[str]]:
        result = invoke("runs", "--store", store, *arguments)
        assert result.exit_code == 0, result.output
        return [line.split() for line in result.stdout.splitlines() if " digits " in line]

    every = runs()
    assert len(every) == 8
    assert every == sorted(every, key=lambda line: (line[2], float(line[3]), int(line[5])))
    key, task, optimizer, lr, decay, seed, steps, status, accuracy = every[0]
    assert (task, optimizer, lr, decay, seed, steps, status) == ("digits", "sgd", "0.01", "0", "0", "8", "done")
    assert accuracy.endswith("%")
    assert [line[0] for line in runs(key[:6])] == [key]
    assert len(runs("--optimizer", "vsgd")) == 4
    assert runs("--status", "failed") == runs("--task", "mnist-mlp") == []
    declined = CliRunner().invoke(app, ["runs", "--store", str(store), "--remove"], input="n\n")
    assert declined.exit_code == 130
    assert len(runs()) == 8
    assert len(runs("--optimizer", "sgd", "--remove", "--yes")) == 4
    assert [line[2] for line in runs()] == ["vsgd"] * 4
    damaged = next(path for path in (store / "runs").iterdir()) / "result.json"
    damaged.write_text("")
    result = invoke("runs", "--store", store)
    assert "3 runs in " in result.stdout
    assert "1 damaged, set aside in " in " ".join(result.stdout.split())
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("a damaged run is set aside as ")


def test_tune_finds_its_target_by_procedure(tmp_path: Path) -> None:
    quick = ["--workers", "1", "--steps", "4", "--trials", "1", "--seeds", "1", "--optimizers", "vsgd"]
    result = invoke("tune", *quick, "--target", "procedure", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (task,) = json.loads((tmp_path / "tuning.json").read_text())["tasks"]
    assert task["target_origin"].startswith("the target on digits is the median final test accuracy of 10 runs of")
    assert task["target_origin"] in " ".join(result.stdout.split())
    assert 0 < task["target_accuracy"] < 1


def test_tune_scores_and_writes(tmp_path: Path) -> None:
    arguments = ["tune", "--workers", "1", "--optimizers", "sgd,adamw", "--trials", "2", "--seeds", "2"]
    result = invoke(*arguments, "--steps", "30", "--target", "0.2", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert re.search(r"^sgd +lr [\d.]+\*? +\d", result.stdout, re.MULTILINE)
    assert "2 trials each, chosen by validation loss; then 2 runs" in " ".join(result.stdout.split())
    assert {"report.html", "scores.tex", "profile.svg", "tuning.json"} <= set(names(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "tuning.json").read_text())
    assert [len(o["trials"]) for o in record["tasks"][0]["optimizers"]] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "--trials", "0"], "--trials 0 is out of range"),
        (["tune", "--space", "decay"], "unknown axis 'decay'"),
        (["tune", "--study", "-1"], "--study '-1' is not a whole number"),
        (["tune", "--studies", "0"], "--studies 0 is out of range"),
        (["tune", "--studies", "2", "--grid", "vsgd/table1"], "--studies 2: a grid has no other points"),
        (["tune", "--target", "best"], "--target 'best' is not a number"),
        (["tune", "--target", "procedure", "--schedule", "paper"], "no paper has rates for all of its references"),
        (["tune", "--grid", "vsgd/tabel1"], "unknown grid 'vsgd/tabel1': did you mean 'vsgd/table1'"),
        (["tune", "--grid", "vsgd/table1", "--optimizers", "svag"], "tried nothing with svag"),
        (["tune", "--target", "97"], "--target 97 is out of range (accepted: a number above 0 and up to 1)"),
        (["tune", "--task", "digits,digits"], "digits stands there twice"),
        (["tune", "--task", ","], "--task ',': no names"),
        (["tune", "--engine", "slurm"], "--engine 'slurm' does not exist"),
        (["compare", "--workers", "some"], "--workers 'some' is not a whole number"),
        (["runs", "--store", "nowhere"], "--store nowhere: no store there; varigrad compare makes one"),
        (["runs", "--status", "lost"], "--status 'lost' does not exist (accepted: done, running"),
    ],
)
def test_bad_input_to_what_uses_a_store(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments)
    assert names(tmp_path) == []


def test_a_store_of_a_later_version_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "train", lambda *args: pytest.fail("training has started"))
    (tmp_path / "store.json").write_text('{"format": "varigrad-store", "version": 99}')
    for command in ("compare", "tune", "runs"):
        assert "written by a later varigrad (store version 99;" in refused(command, "--store", tmp_path)
    assert names(tmp_path) == ["store.json"]


def test_list(tmp_path: Path) -> None:
    result = invoke("list", "--data-dir", mnist_folder(tmp_path))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 2 + len(TASKS) + len(OPTIMIZERS)
    for name in (*TASKS, *OPTIMIZERS):
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1
    whereabouts = {line.split()[0]: line for line in lines}
    assert whereabouts["mnist-mlp"].endswith(f"at hand in {tmp_path}")
    assert whereabouts["cifar10-cnn"].endswith(f"missing in {tmp_path}")
    assert whereabouts["vsgd"].endswith("Chen et al. 2024, Algorithm 1")


def test_version_and_help() -> None:
    assert invoke("--version").stdout == f"varigrad {__version__}\n"
    for arguments in ([], ["--help"]):
        assert "compare" in invoke(*arguments).stdout
    assert "varigrad compare --out results" in invoke("compare", "--help").stdout


def start(
    *arguments: str, cwd: Path, code: str = "from varigrad.__main__ import main; main()"
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    source = str(Path(__file__).parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_process_of_its_own_fails_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    process = start(
        "compare", "--task", "mnist-mlp", "--data-dir", ".", "--out", "out", "--json", "a.json", cwd=tmp_path
    )
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith(f"varigrad: error: no train data of ylecun/mnist in {tmp_path}: ")
    assert process.stdout == ""
    assert names(tmp_path) == []


def test_without_the_lab_extra(tmp_path: Path) -> None:
    without_typer = "import sys; sys.modules['typer'] = None; from varigrad.__main__ import main; main()"
    process = start("list", cwd=tmp_path, code=without_typer)
    assert process.returncode == 2
    assert process.stderr == "varigrad: error: the command line needs the lab extra: pip install 'varigrad[lab]'\n"


COMMANDS = sorted(command.name for command in app.registered_commands)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_reads_like_a_manual_page(command: str | None) -> None:
    """Examples of the command, lines that fit a terminal of 80 columns, and no type where nothing is typed."""
    arguments = [command, "--help"] if command else ["--help"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    _, found, examples = text.partition("Examples")
    assert found
    assert re.search(rf"^ +varigrad {command or 'compare'}\b", examples, re.MULTILINE)
    assert "<bool>" not in text
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())

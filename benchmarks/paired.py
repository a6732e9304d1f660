"""What comparisons with the same seeds say of one optimizer against the others: paired differences.

    python benchmarks/paired.py svgd results/svgd-table1/seeds-*.json --json results/svgd-table1/summary.json

Reads records of `varigrad compare --json` that differ in their seeds alone, each optimizer with one learning rate, and
gives, of the test error in per cent at the end and of its minimum on the way, mean and standard deviation over the
seeds, and the mean of the difference of the first optimizer to each other one with its 95 % confidence interval
(Student's t, seed by seed).
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from scipy import stats


def errors(records: list[dict[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """Of each optimizer the test error in per cent by seed: `final`, and `lowest` on the way."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        for row in record["optimizers"]:
            (rung,) = row["rungs"]
            mine = found.setdefault(row["name"], {"final": {}, "lowest": {}})
            for run in rung["runs"]:
                accuracies = run["curves"]["test_accuracy"]
                mine["final"][run["seed"]] = 100 * (1 - accuracies[-1])
                mine["lowest"][run["seed"]] = 100 * (1 - max(accuracies))
    return found


def difference(one: dict[int, float], other: dict[int, float]) -> dict[str, Any]:
    """The mean of one minus the other, seed by seed, and its 95 % confidence interval."""
    values = [one[seed] - other[seed] for seed in sorted(one)]
    mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return {"mean": round(mean, 4), "interval_95": [round(mean - half, 4), round(mean + half, 4)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("optimizer")
    parser.add_argument("records", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    records = [json.loads(path.read_text("utf-8")) for path in arguments.records]
    common = {key: value for key, value in records[0]["settings"].items() if key != "seeds"}
    for record in records:
        assert {key: value for key, value in record["settings"].items() if key != "seeds"} == common
        assert record["task"] == records[0]["task"]
    found = errors(records)
    summary: dict[str, Any] = {
        "format": "varigrad-paired",
        "task": records[0]["task"],
        "settings": {**common, "seeds": sorted(found[arguments.optimizer]["final"])},
        "unit": "test error in per cent",
        "optimizers": {},
        "records": [path.name for path in arguments.records],
        "provenance": [record["provenance"] for record in records],
    }
    for name, kinds in found.items():
        row: dict[str, Any] = {}
        for kind, values in kinds.items():
            spread = {"mean": statistics.mean(values.values()), "std": statistics.stdev(values.values())}
            row[kind] = {key: round(value, 4) for key, value in spread.items()}
            if name != arguments.optimizer:
                row[kind][f"{arguments.optimizer} minus {name}"] = difference(found[arguments.optimizer][kind], values)
        summary["optimizers"][name] = row
        print(f"{name:10} " + "   ".join(f"{kind} {row[kind]}" for kind in row))
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

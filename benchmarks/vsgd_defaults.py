"""How much VSGD's hyperparameters matter: one at a time away from its defaults, at a few learning rates.

    python benchmarks/vsgd_defaults.py [--task digits] [--seeds 10]
    python benchmarks/vsgd_defaults.py --task mnist-mlp --steps 1500 --seeds 3 --rates 0.01
    python benchmarks/vsgd_defaults.py --task benchmarks/short_tasks.py:gpt-short --seeds 5 --rates 0.003,0.01

All settings begin with the same weights and see the same batches. The runs are kept in results/vsgd-defaults/; what is
there is not run again.
"""

import argparse
from pathlib import Path

from study import Study

from varigrad.lab.optimizers import find_optimizer

FOLDER = Path(__file__).parent.parent / "results" / "vsgd-defaults"
SETTINGS = {
    "variance_ratio": (1.0, 3.0, 10.0, 100.0, 300.0, 1000.0),
    "prior_strength": (1e-12, 1e-10, 1e-6, 1e-4),
    "shape_offset": (0.0, 5e-7, 5e-6, 5e-4, 5e-3),
    "kappas": ((0.9, 0.81), (0.8, 0.9), (0.6, 0.6), (0.81, 0.81), (0.9, 0.9), (1.0, 1.0)),
}
"""Away from variance_ratio=30, prior_strength=1e-8, shape_offset=5e-5 and kappas=(0.81, 0.9)."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rates", default="0.003,0.01,0.03", help="for the settings; the defaults have all rates")
    options = parser.parse_args()
    study = Study(FOLDER / f"{options.task.rpartition(':')[2]}.json", options.task, options.steps)
    row = find_optimizer("vsgd")
    for seed in range(options.seeds):
        for rate in (*row.rates, 3e-1):
            study.run(row, rate, seed)
        for rate in map(float, options.rates.split(",")):
            for name, values in SETTINGS.items():
                for value in values:
                    study.run(row, rate, seed, **{name: value})


if __name__ == "__main__":
    main()

"""What is lost when the loss is multiplied by 0.01 or by 100: every optimizer of the package, AdamW and SGD.

    python benchmarks/loss_scale.py [--task digits] [--seeds 10] [--retune]
    python benchmarks/loss_scale.py --task mnist-mlp --steps 1500 --seeds 3 [--optimizers vsgd,adamw]

Each optimizer's learning rate is the best of its ladder for the loss as it is, by the validation loss of two seeds of
their own. It is kept for the scaled losses, which begin with the same weights and see the same batches. With --retune
each factor has a best rate of its own as well. The runs are kept in results/loss-scale/; what is there is not run
again.
"""

import argparse
from pathlib import Path

from study import Study

from varigrad.lab.optimizers import OPTIMIZERS, find_optimizer

FACTORS = (1.0, 0.01, 100.0)
TUNING = (100, 101)
FOLDER = Path(__file__).parent.parent / "results" / "loss-scale"
ROWS = [row for name, row in OPTIMIZERS.items() if name in ("adamw", "sgd") or row.class_name.startswith("varigrad.")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--optimizers", default=",".join(row.name for row in ROWS))
    parser.add_argument("--retune", action="store_true")
    options = parser.parse_args()
    study = Study(FOLDER / f"{options.task}.json", options.task, options.steps)
    for row in map(find_optimizer, options.optimizers.split(",")):
        kept = study.best_rate(row, TUNING)
        for factor in FACTORS:
            rates = {kept, study.best_rate(row, TUNING, factor)} if options.retune else {kept}
            for seed in range(options.seeds):
                for rate in rates:
                    study.run(row, rate, seed, factor)


if __name__ == "__main__":
    main()

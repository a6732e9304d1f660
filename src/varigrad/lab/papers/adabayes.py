"""Aitchison 2020: Bayesian filtering unifies adaptive and non-adaptive neural network optimization methods."""

from __future__ import annotations

from varigrad.lab.papers.paper import TEST_ERROR, TEST_LOSS, TRAIN_LOSS, Cell, Claim, Item, Paper, Setting

EPOCHS = 200  # of Luo et al. 2019; the paper says "more" and not how many
_STEPS_PER_EPOCH = 50_000 // 128
_STEPS = EPOCHS * _STEPS_PER_EPOCH
_SCHEDULE = f"drops:{150 * _STEPS_PER_EPOCH}=0.1"

_L2 = 5e-4  # coupled
_DECOUPLED = 0.05  # times the rate of 1e-3: the paper's λ of 5e-5 per step
_BOUNDS = {"final_lr": 0.1, "gamma": 1e-3}


def _settings(network: str) -> dict[str, tuple[str, Setting]]:
    # Luo et al. found betas of their own for each network.
    betas = {"betas": (0.99, 0.999) if network == "resnet34" else (0.9, 0.999)}
    return {
        "SGD": ("sgd", Setting(0.1, _L2)),
        "Adam": ("adam", Setting(1e-3, _L2, betas)),
        "AdaGrad": ("adagrad", Setting(0.01, _L2)),
        "AMSGrad": ("adam", Setting(1e-3, _L2, {**betas, "amsgrad": True})),
        "AdaBound": ("adabound", Setting(1e-3, _L2, _BOUNDS)),
        "AMSBound": ("amsbound", Setting(1e-3, _L2, _BOUNDS)),
        "AdamW": ("adamw", Setting(1e-3, _DECOUPLED)),
        "AdaBayes-FP": ("adabayes-fp", Setting(1e-3, _DECOUPLED)),
        "AdaBayes": ("adabayes", Setting(1e-3, _DECOUPLED)),
    }


# Error in per cent and loss, both the lowest, of ResNet-34 and DenseNet-121 on CIFAR-10, then on CIFAR-100.
_TASKS = ("cifar10-resnet34", "cifar10-densenet121", "cifar100-resnet34", "cifar100-densenet121")
_TABLE_1 = {
    "SGD": ((5.170, 0.174), (5.580, 0.177), (22.710, 0.833), (21.290, 0.774)),
    "Adam": ((7.110, 0.239), (6.690, 0.230), (27.590, 1.049), (26.640, 1.074)),
    "AdaGrad": ((6.840, 0.307), (7.490, 0.338), (30.350, 1.347), (30.110, 1.319)),
    "AMSGrad": ((6.720, 0.239), (6.170, 0.234), (27.430, 1.033), (25.850, 1.103)),
    "AdaBound": ((5.140, 0.220), (4.850, 0.210), (23.060, 1.004), (22.210, 1.050)),
    "AMSBound": ((4.940, 0.210), (4.960, 0.219), (23.000, 1.003), (22.360, 1.017)),
    "AdamW": ((5.080, 0.239), (5.190, 0.214), (24.850, 1.142), (23.480, 1.043)),
    "AdaBayes-FP": ((5.230, 0.187), (4.910, 0.176), (23.120, 0.935), (22.600, 0.934)),
    "AdaBayes": ((4.840, 0.229), (4.560, 0.222), (22.920, 0.969), (22.090, 1.079)),
}


def _cells(
    metrics: tuple[str, ...], names: tuple[str, ...] = tuple(_TABLE_1), numbers: bool = True
) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            f"{task} {name}, {metric}",
            task,
            _settings(task.split("-")[1])[name][0],
            (_settings(task.split("-")[1])[name][1],),
            _SCHEDULE,
            _STEPS,
            metric,
            best=True,
            number=_TABLE_1[name][column][metric == TEST_LOSS] if numbers else None,
        )
        for column, task in enumerate(_TASKS)
        for name in names
        for metric in metrics
    )


def _claim(better: str, worse: str, metric: str, tasks: tuple[str, ...] = _TASKS) -> tuple[Claim, ...]:
    return tuple(
        Claim(
            f"{task}: {better} has a lower {metric} than {worse}",
            f"{task} {better}, {metric}",
            f"{task} {worse}, {metric}",
        )
        for task in tasks
    )


_BOTH = (TEST_ERROR, TEST_LOSS)
_NOTE = (
    "Figures are of Table 1's runs. The row printed as AdaBayes-SS, defined nowhere, is AdaBayes-FP here. The paper "
    "ran more than 200 epochs and does not say how many; ours are 200."
)

PAPER = Paper(
    "adabayes",
    "Aitchison 2020, Bayesian filtering unifies adaptive and non-adaptive neural network optimization methods",
    (
        Item("fig1", "How correlated weights move one another's optimum", note="A drawing."),
        Item("fig2", "The graphical model", note="A drawing."),
        Item(
            "fig3",
            "AdaBayes' learning rate against Adam's, its fixed point and its two limits",
            computed="learning_rates",
            note="The paper's points are a ResNet-34's; here gradients of every scale are drawn. The fixed point the "
            "paper draws, Eq. 21, is an approximation; the exact one stands beside it.",
        ),
        Item(
            "table1",
            "Lowest test error and loss",
            _cells(_BOTH),
            (
                *_claim("AdaBayes", "Adam", TEST_ERROR),
                *_claim("AdaBayes-FP", "Adam", TEST_LOSS),
                *_claim("AdaBayes", "AdamW", TEST_ERROR),
                *_claim("AdaBayes", "SGD", TEST_ERROR, _TASKS[:2]),
                *_claim("SGD", "AdaBayes-FP", TEST_LOSS, _TASKS[2:]),
            ),
            note=_NOTE,
            seeds=3,
        ),
        Item("fig4", "Test error and loss, all methods", _cells(_BOTH, numbers=False), note=_NOTE),
        Item(
            "figA1",
            "AdaBayes(-FP) and the standard methods",
            _cells(_BOTH, ("SGD", "Adam", "AdaGrad", "AMSGrad", "AdaBayes-FP", "AdaBayes"), numbers=False),
            note=_NOTE,
        ),
        Item(
            "figA2",
            "Adam, AdamW, AdaBayes-FP",
            _cells(_BOTH, ("Adam", "AdamW", "AdaBayes-FP"), numbers=False),
            note=_NOTE,
        ),
        Item(
            "figA3",
            "AdaBayes(-FP) and AdaBound, AMSBound",
            _cells(_BOTH, ("AdaBound", "AMSBound", "AdaBayes-FP", "AdaBayes"), numbers=False),
            note=_NOTE,
        ),
        Item(
            "figA4",
            "AdaBound, AMSBound, SGD",
            _cells(_BOTH, ("AdaBound", "AMSBound", "SGD"), numbers=False),
            note=_NOTE,
        ),
        Item("figA5", "Training loss, all methods", _cells((TRAIN_LOSS,), numbers=False), note=_NOTE),
    ),
)

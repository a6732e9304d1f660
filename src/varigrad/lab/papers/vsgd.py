"""Chen, Kuzina, Esmaeili and Tomczak 2024: Variational Stochastic Gradient Descent for Deep Neural Networks."""

from __future__ import annotations

from varigrad.lab.papers.paper import TEST_ACCURACY, TRAIN_LOSS, Cell, Claim, Item, Paper, Setting

STEPS = {"cifar100": 30_000, "tiny-imagenet": 60_000, "imagenet": 50 * (1_281_167 // 256)}
NOTEBOOK_STEPS = 3 * (60_000 // 32)

# Table 3: tried for every network; the paper chose by validation and does not say which it took.
RATES = (0.001, 0.005, 0.01, 0.02)
WEIGHT_DECAY = 0.01
MOMENTA = (0.9, 0.99)
_GRIDS = {
    "VSGD (w/ L2)": ("vsgd", tuple(Setting(lr, WEIGHT_DECAY) for lr in RATES)),
    "VSGD (w/o L2)": ("vsgd", tuple(Setting(lr) for lr in RATES)),
    "Adam (w/o L2)": ("adam", tuple(Setting(lr) for lr in RATES)),
    "AdamW (w/ L2)": ("adamw", tuple(Setting(lr, WEIGHT_DECAY) for lr in RATES)),
    "SGD (w/ mom)": ("sgd", tuple(Setting(lr, 0.0, {"momentum": momentum}) for lr in RATES for momentum in MOMENTA)),
}
_TABLE_1 = {
    "cifar100-vgg16": (70.1, 70.0, 66.8, 66.6, 67.9),
    "cifar100-convmixer": (69.8, 69.1, 66.5, 67.0, 65.4),
    "cifar100-resnext18": (71.4, 71.2, 68.2, 69.7, 68.5),
    "tiny-imagenet-vgg19": (51.2, 52.0, 47.6, 49.0, 50.9),
    "tiny-imagenet-convmixer": (53.1, 52.6, 51.9, 52.4, 52.4),
    "tiny-imagenet-resnext18": (48.7, 47.2, 48.8, 48.9, 47.0),
}
_HALVINGS = {
    "cifar100": "drops:10000=0.5,20000=0.25",
    "tiny-imagenet": "drops:20000=0.5,40000=0.25",
}


def _place(task: str) -> str:
    return "tiny-imagenet" if task.startswith("tiny") else "cifar100"


def _grid(task: str, metric: str, numbers: tuple[float, ...] | None) -> tuple[Cell, ...]:
    place = _place(task)
    return tuple(
        Cell(
            f"{task} {row}",
            task,
            optimizer,
            settings,
            _HALVINGS[place],
            STEPS[place],
            metric,
            number=None if numbers is None else numbers[index],
            seeds=3,
        )
        for index, (row, (optimizer, settings)) in enumerate(_GRIDS.items())
    )


def _ahead(task: str) -> tuple[Claim, ...]:
    ours, others = f"{task} VSGD (w/ L2)", ("Adam (w/o L2)", "AdamW (w/ L2)", "SGD (w/ mom)")
    return tuple(Claim(f"{task}: VSGD is ahead of {name.split(' ')[0]}", ours, f"{task} {name}") for name in others)


_TASKS = {place: [task for task in _TABLE_1 if _place(task) == place] for place in STEPS if place != "imagenet"}
_ALL_TABLE_1 = tuple(cell for task, numbers in _TABLE_1.items() for cell in _grid(task, TEST_ACCURACY, numbers))


def _curves(place: str, metric: str) -> tuple[Cell, ...]:
    return tuple(cell for task in _TASKS[place] for cell in _grid(task, metric, None))


def _mixer(key: str, optimizer: str, setting: Setting, number: float | None, std: float | None = None) -> Cell:
    steps, drops = STEPS["cifar100"], _HALVINGS["cifar100"]
    task = "cifar100-convmixer"
    return Cell(key, task, optimizer, (setting,), drops, steps, TEST_ACCURACY, number=number, std=std, seeds=3)


_STRENGTHS = {1e-9: 67.75, 5e-9: 68.59, 1e-8: 69.03, 5e-8: 69.77, 1e-7: 69.71, 1e-3: 60.97}


def _strengths(numbers: bool) -> tuple[Cell, ...]:
    return tuple(
        _mixer(
            f"γ = {strength:g}", "vsgd", Setting(0.01, 0.0, {"prior_strength": strength}), number if numbers else None
        )
        for strength, number in _STRENGTHS.items()
    )


def _notebook(key: str, optimizer: str, setting: Setting, number: float) -> Cell:
    return Cell(key, "mnist-convmixer", optimizer, (setting,), "constant", NOTEBOOK_STEPS, TEST_ACCURACY, number=number)


_SELECTION = (
    "The paper chose the rate by validation on 256 augmented training images (CIFAR-100) or on the test images (Tiny "
    "ImageNet), and does not say which it took: here every candidate is run and chosen on a tenth held out."
)
_RATE = "The paper does not say the learning rate; 0.01 is ours. Figure and table are of the same runs."

PAPER = Paper(
    "vsgd",
    "Chen et al. 2024, Variational Stochastic Gradient Descent for Deep Neural Networks",
    (
        Item("fig1", "The graphical model", note="A drawing."),
        Item(
            "table1",
            "Final test accuracy",
            _ALL_TABLE_1,
            tuple(claim for task in _TABLE_1 for claim in _ahead(task)),
            note=_SELECTION,
        ),
        Item("fig2", "Test accuracy on CIFAR-100", _curves("cifar100", TEST_ACCURACY), note=_SELECTION),
        Item("fig3", "Test accuracy on Tiny ImageNet", _curves("tiny-imagenet", TEST_ACCURACY), note=_SELECTION),
        Item(
            "table2",
            "Seconds per training step on a GeForce RTX 2080 Ti, Adam and VSGD",
            computed="step_times",
            note="That processor's seconds are its own; the ratio of VSGD to Adam is what is compared.",
        ),
        Item("table3", "Hyperparameters", note="Nothing to run: they are the settings of table1."),
        Item("table4", "Augmentation", note="Nothing to run: it is that of the tasks cifar100-* and tiny-imagenet-*."),
        Item(
            "imagenet",
            "ResNet-50 on ImageNet (Section 4.2)",
            tuple(
                Cell(
                    key,
                    "imagenet-resnet50",
                    optimizer,
                    (Setting(0.1),),
                    "onecycle",
                    STEPS["imagenet"],
                    TEST_ACCURACY,
                    number=number,
                )
                for key, optimizer, number in (("VSGD", "vsgd", 71.1), ("Adam", "adam", 68.7))
            ),
            (Claim("VSGD is ahead of Adam", "VSGD", "Adam"),),
            seeds=1,
        ),
        Item("fig4", "Training loss on CIFAR-100", _curves("cifar100", TRAIN_LOSS), note=_SELECTION),
        Item("fig5", "Training loss on Tiny ImageNet", _curves("tiny-imagenet", TRAIN_LOSS), note=_SELECTION),
        Item("fig6", "Test accuracy by prior strength γ", _strengths(True), note=_RATE),
        Item("fig7", "Test accuracy during training, by γ", _strengths(False), note=_RATE),
        Item(
            "table5",
            "Test accuracy by prior strength γ",
            _strengths(True),
            (Claim("γ = 1e-3 is too large", "γ = 1e-08", "γ = 0.001"),),
            note=_RATE,
        ),
        Item(
            "fig8",
            "VSGD and Constant VSGD (Appendix D)",
            (
                _mixer("VSGD", "vsgd", Setting(0.01), 69.04, 0.4),
                _mixer("Constant VSGD", "constant-vsgd", Setting(0.01), 68.49, 0.19),
            ),
            (Claim("VSGD is ahead of Constant VSGD", "VSGD", "Constant VSGD"),),
            note=_RATE + " κ of Constant VSGD is not said either; 0.9 here.",
        ),
        Item(
            "notebook",
            "ConvMixer-16/4 on MNIST",
            (
                _notebook("VSGD", "vsgd", Setting(0.01, 0.0, {"prior_strength": 1e-7}), 98.08),
                _notebook("SGD with momentum", "sgd", Setting(0.01), 97.81),
                _notebook("Adam", "adam", Setting(0.01), 97.68),
            ),
            (
                Claim("VSGD is ahead of SGD with momentum", "VSGD", "SGD with momentum"),
                Claim("VSGD is ahead of Adam", "VSGD", "Adam"),
            ),
            note="Not in the paper: the example of the authors' repository, one run each.",
            seeds=5,
        ),
    ),
)

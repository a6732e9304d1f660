"""Li and Shu 2019: SVGD: A Virtual Gradients Descent Method for Stochastic Optimization."""

from __future__ import annotations

from typing import Any

from varigrad.lab.papers.paper import TEST_ERROR, TEST_LOSS, Cell, Claim, Item, Paper, Setting

# How the three networks were trained: the steps at which the rates change, and the rates of the phases (Tables 1 to 3;
# for ResNet-20 the table's steps and not the text's), the penalty on the absolute values of all parameters (the
# program: half of it for Adam in Table 1), and RMSProp as TensorFlow has it, its eps of 1e-10 inside the root.
# The scale s is the program's; SVGD here takes the batch size times as much.
_TENSORFLOW = {"sgd": {"momentum": 0.0}, "rmsprop": {"alpha": 0.9, "eps": 1e-5}}
MLP: dict[str, Any] = {
    "starts": (0, 1600, 3600),
    "rates": {
        "rmsprop": (0.001, 0.0005, 0.00005),
        "adam": (0.001, 0.00005, 0.00005),
        "sgd": (0.1, 0.05, 0.01),
        "svgd": (0.01, 0.005, 0.001),
    },
    "arguments": _TENSORFLOW,
    "l1": 1e-4,
}
VGG: dict[str, Any] = {
    "starts": (0, 12_000, 24_000),
    "rates": {
        "rmsprop": (0.02, 0.01, 0.002),
        "adam": (0.02, 0.01, 0.005),
        "sgd": (2.0, 0.5, 0.005),
        "svgd": (2.0, 0.5, 0.005),
    },
    "arguments": {**_TENSORFLOW, "svgd": {"scale": 0.001 * 128}},
    "l1": 1e-5,
}
RESNET: dict[str, Any] = {
    "starts": (0, 32_000, 42_000),
    "rates": {
        "rmsprop": (0.001, 0.0001, 0.0001),
        "adam": (0.001, 0.0001, 0.00005),
        "sgd": (0.1, 0.01, 0.001),
        "svgd": (0.5, 0.02, 0.01),
    },
    "arguments": {**_TENSORFLOW, "svgd": {"scale": 0.01 * 128}},
    "l1": 1e-4,
}

HILBERT_SIZE, HILBERT_RIGHT_SIDE = 10, 0.05

# Lowest test errors and last test losses, from the logs the authors published.
_ERRORS = {
    "mnist-mlp": {"rmsprop": 1.80, "adam": 1.94, "sgd": 1.76, "svgd": 1.60},
    "cifar10-vgg6": {"rmsprop": 17.78, "adam": 18.02, "sgd": 17.32, "svgd": 17.07},
    "cifar10-resnet20": {"rmsprop": 11.18, "adam": 11.12, "sgd": 10.69, "svgd": 8.62},
}
_LOSSES = {
    "mnist-mlp": {"rmsprop": 0.0603, "adam": 0.0665, "sgd": 0.0566, "svgd": 0.0537},
    "cifar10-vgg6": {"rmsprop": 0.5308, "adam": 0.5546, "sgd": 0.5240, "svgd": 0.5233},
    "cifar10-resnet20": {"rmsprop": 0.3778, "adam": 0.3574, "sgd": 0.3350, "svgd": 0.3128},
}
_STEPS = {"mnist-mlp": 6000, "cifar10-vgg6": 35_000, "cifar10-resnet20": 50_000}
_NAMES = {"rmsprop": "RMSProp", "adam": "Adam", "sgd": "SGD", "svgd": "SVGD"}


def _cells(task: str, protocol: dict[str, Any], numbers: str) -> tuple[Cell, ...]:
    errors = numbers == "errors"
    return tuple(
        Cell(
            _NAMES[optimizer],
            "mnist-mlp4" if numbers == "four layers" else task,
            optimizer,
            (Setting(protocol["rates"][optimizer][0]),),
            "paper",
            _STEPS[task],
            TEST_LOSS if numbers == "losses" else TEST_ERROR,
            best=numbers != "losses",
            number=_LOSSES[task][optimizer] if numbers == "losses" else _ERRORS[task][optimizer] if errors else None,
        )
        for optimizer in protocol["rates"]
    )


def _ahead(what: str) -> tuple[Claim, ...]:
    return tuple(
        Claim(f"SVGD has a lower {what} than {_NAMES[name]}", "SVGD", _NAMES[name])
        for name in MLP["rates"]
        if name != "svgd"
    )


_BATCH_NORM = (
    "The published runs normalise the test images with their own batch's statistics; ours with the running ones. "
    "The published errors are the lowest during one run."
)

PAPER = Paper(
    "svgd",
    "Li and Shu 2019, SVGD: A Virtual Gradients Descent Method for Stochastic Optimization",
    (
        Item(
            "fig1",
            "f(θ) against σ while F(f(θ)) is minimised",
            computed="composite",
            note="The picture is a sketch; what it illustrates, Eq. 7, is measured: one step apart by O(α²).",
        ),
        Item("fig2", "A computational graph and its pieces", note="A drawing."),
        Item("fig3", "The graphs of gradients and of virtual gradients", note="A drawing."),
        Item("fig4", "How an operation is replaced", note="A drawing."),
        Item("fig5", "Layers of TensorFlow", note="A drawing."),
        Item("fig6", "Nodes added to the graph of the gradients", note="A drawing."),
        Item(
            "fig7",
            "Lemma 4.1: E[vᵀMᵀMu] is proportional to vᵀu",
            computed="lemma",
            note="The lemma's ‖M‖₂ is the spectral norm in the authors' program.",
        ),
        Item(
            "fig8", "The MLP: 245,482 parameters", computed="svgd_mlp", note="The authors' program has one layer less."
        ),
        Item(
            "table1",
            "MLP on MNIST: lowest test error",
            _cells("mnist-mlp", MLP, "errors"),
            _ahead("test error"),
            note=_BATCH_NORM,
            seeds=10,
        ),
        Item(
            "table1-4-layers",
            "The same with the network of the authors' program for SVGD, one layer less",
            _cells("mnist-mlp", MLP, "four layers"),
            _ahead("test error"),
            note="The program's SVGD run may have had this network: its 1.60 % then belong here.",
        ),
        Item(
            "fig9",
            "MLP on MNIST: test loss",
            _cells("mnist-mlp", MLP, "losses"),
            _ahead("test loss"),
            note=_BATCH_NORM,
            seeds=10,
        ),
        Item("fig10", "The VGG: 46,126 parameters", computed="svgd_vgg"),
        Item(
            "table2",
            "VGG on CIFAR-10: lowest test error",
            _cells("cifar10-vgg6", VGG, "errors"),
            _ahead("test error"),
            note=_BATCH_NORM,
        ),
        Item(
            "fig11",
            "VGG on CIFAR-10: test loss",
            _cells("cifar10-vgg6", VGG, "losses"),
            _ahead("test loss"),
            note=_BATCH_NORM,
        ),
        Item(
            "table3",
            "ResNet-20 on CIFAR-10: lowest test error",
            _cells("cifar10-resnet20", RESNET, "errors"),
            _ahead("test error"),
            note=_BATCH_NORM,
        ),
        Item(
            "fig12",
            "ResNet-20 on CIFAR-10: test loss",
            _cells("cifar10-resnet20", RESNET, "losses"),
            _ahead("test loss"),
            note=_BATCH_NORM,
        ),
        Item(
            "hilbert",
            "Least squares with the Hilbert matrix: loss after 95 steps",
            computed="hilbert",
            note="Not in the paper: an example of the authors' program, with its logs.",
        ),
    ),
)

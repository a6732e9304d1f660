"""The papers' image tasks."""

from __future__ import annotations

import dataclasses
import functools

from varigrad.lab.data import CIFAR10, CIFAR100, FASHION_MNIST, MNIST, TINY_IMAGENET
from varigrad.lab.distortion import affine_and_jitter, colour_distortion
from varigrad.lab.encoded import IMAGENET, EncodedClassification
from varigrad.lab.kinds.images import Classification
from varigrad.lab.models.convmixer import convmixer
from varigrad.lab.models.densenet import densenet
from varigrad.lab.models.plain_cnn import cnn_2c2d, cnn_3c3d
from varigrad.lab.models.resnet import resnet34, resnet50
from varigrad.lab.models.resnext import resnext
from varigrad.lab.models.small_resnet import small_resnet
from varigrad.lab.models.vgg import VGG16, VGG19, vgg
from varigrad.lab.models.vgg6 import vgg6
from varigrad.lab.models.wide_resnet import wide_resnet
from varigrad.lab.papers import adabayes, dissecting_adam, svgd, vsgd
from varigrad.lab.protocol import Protocol
from varigrad.lab.tasks.task import Task

_EPOCH = 50_000 // 128

# SVGD: the paper cites He et al.'s augmentation, which these tasks have (its program: shifts from -2 to 1).
_SVGD = (
    Task(
        "cifar10-vgg6",
        "CIFAR-10, the six-layer VGG of SVGD",
        CIFAR10,
        vgg6,
        batch_size=128,
        steps=35_000,
        seeds=3,
        target=0.8,
        pad=4,
        evaluations=35,
        kind=Classification(standardise=True),
        protocol=Protocol("Li and Shu 2019, Table 2", **svgd.VGG),
        channels_last=True,
    ),
    Task(
        "cifar10-resnet20",
        "CIFAR-10, pre-activation ResNet-20",
        CIFAR10,
        small_resnet,
        batch_size=128,
        steps=50_000,
        seeds=3,
        target=0.9,
        pad=4,
        evaluations=50,
        kind=Classification(standardise=True),
        protocol=Protocol("Li and Shu 2019, Table 3", **svgd.RESNET),
    ),
)

# "Dissecting Adam": P1 and its stand-in where Fashion-MNIST cannot be had, P2, P3.
_DISTORTED = Classification(distort=colour_distortion, standardise=True)
_P1 = Task(
    "fashion-2c2d",
    "Fashion-MNIST, two convolutions and two lines",
    FASHION_MNIST,
    cnn_2c2d,
    batch_size=64,
    steps=dissecting_adam.STEPS["P1"],
    seeds=3,
    target=0.9,
    evaluations=20,
    channels_last=True,
)
_DISSECTING = (
    _P1,
    dataclasses.replace(
        _P1, name="mnist-2c2d", summary="MNIST, two convolutions and two lines", data=MNIST, target=0.99
    ),
    Task(
        "cifar10-3c3d",
        "CIFAR-10, three convolutions and three lines",
        CIFAR10,
        cnn_3c3d,
        batch_size=128,
        steps=dissecting_adam.STEPS["P2"],
        seeds=3,
        target=0.8,
        pad=2,
        evaluations=40,
        kind=_DISTORTED,
        l2=0.002,
        channels_last=True,
    ),
    Task(
        "cifar100-wrn40-4",
        "CIFAR-100, WRN-40-4",
        CIFAR100,
        wide_resnet,
        batch_size=128,
        steps=dissecting_adam.STEPS["P3"],
        seeds=3,
        target=0.7,
        pad=2,
        evaluations=40,
        kind=_DISTORTED,
        l2=5e-4,
    ),
)


def _adabayes(classes: int) -> tuple[Task, Task]:
    cifar = CIFAR10 if classes == 10 else CIFAR100
    residual = Task(
        f"cifar{classes}-resnet34",
        f"CIFAR-{classes}, ResNet-34",
        cifar,
        functools.partial(resnet34, classes),
        batch_size=128,
        steps=adabayes.EPOCHS * _EPOCH,
        seeds=1,
        target=0.93 if classes == 10 else 0.7,
        pad=4,
        evaluations=adabayes.EPOCHS,
    )
    dense = dataclasses.replace(
        residual,
        name=f"cifar{classes}-densenet121",
        summary=f"CIFAR-{classes}, DenseNet-121",
        model=functools.partial(densenet, classes=classes),
    )
    return residual, dense


def _vsgd(place: str, summary: str, tiny: bool) -> tuple[Task, ...]:
    classes, half = (200, 2) if tiny else (100, 1)
    mixer = Task(
        f"{place}-convmixer",
        f"{summary}, ConvMixer-256/8",
        TINY_IMAGENET if tiny else CIFAR100,
        functools.partial(convmixer, 256, 8, kernel=5, patch=2, classes=classes),
        batch_size=256 // half,
        steps=vsgd.STEPS[place],
        seeds=3,
        target=0.4 if tiny else 0.6,
        pad=4,
        evaluations=60,
        kind=Classification(distort=affine_and_jitter) if tiny else Classification(),
    )
    return (
        dataclasses.replace(
            mixer,
            name=f"{place}-vgg{19 if tiny else 16}",
            summary=f"{summary}, VGG{19 if tiny else 16} with batch norm",
            model=functools.partial(vgg, VGG19 if tiny else VGG16, classes),
        ),
        mixer,
        dataclasses.replace(
            mixer,
            name=f"{place}-resnext18",
            summary=f"{summary}, ResNeXt-18",
            model=functools.partial(resnext, classes),
            batch_size=128 // half,
        ),
    )


_IMAGENET = Task(
    "imagenet-resnet50",
    "ImageNet, ResNet-50",
    IMAGENET,
    resnet50,
    batch_size=256,
    steps=vsgd.STEPS["imagenet"],
    seeds=1,
    target=0.65,
    evaluations=50,
    kind=EncodedClassification(224),
)

TASKS = (
    *_SVGD,
    *_DISSECTING,
    *_adabayes(10),
    *_adabayes(100),
    *_vsgd("cifar100", "CIFAR-100", tiny=False),
    *_vsgd("tiny-imagenet", "Tiny ImageNet", tiny=True),
    _IMAGENET,
)

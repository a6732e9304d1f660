"""The oracle: float64 numpy transcriptions of four papers' optimizers, written from the papers alone, and of
our own.

Each function keeps the symbols and the literal form of its paper, one equation a line, where the library uses whatever
form is fast and stable. Nothing here imports the library or torch. Every function is

    name(theta, gradients, lr, *, <hyperparameters>, weight_decay=0.0) -> array of shape (T + 1, *theta.shape)

the parameter before the first and after each of the T steps. An entry of `gradients` may be None: that step skips the
parameter wholly (no decay, its step counter stands still). `lr` is one rate or a schedule of T rates. Only the virtual
gradients of `svgd` need more than gradients: see there.
"""

from .adabayes import adabayes, adabayes_fp
from .adaptive import adaptive_vsgd
from .baselines import adamw, normalized_sgd, sgdm
from .dissecting_adam import adam_star, minibatch_variance, msgd, mssd, msvag, msvag_minibatch, rho, ssd, svag
from .muon import adaptive_muon
from .svgd import svgd_conv, svgd_mlp
from .vsgd import constant_vsgd, vsgd, vsgd_per_sample

__all__ = [
    "adabayes",
    "adabayes_fp",
    "adam_star",
    "adamw",
    "adaptive_muon",
    "adaptive_vsgd",
    "constant_vsgd",
    "minibatch_variance",
    "msgd",
    "mssd",
    "msvag",
    "msvag_minibatch",
    "normalized_sgd",
    "rho",
    "sgdm",
    "ssd",
    "svag",
    "svgd_conv",
    "svgd_mlp",
    "vsgd",
    "vsgd_per_sample",
]

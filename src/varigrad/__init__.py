"""PyTorch optimizers that treat the gradient as a noisy observation of a true one."""

from .adabayes import AdaBayes, AdaBayesFP
from .convert import convert_state
from .sign import MSGD, MSSD, SSD
from .svag import MSVAG, SVAG, AdamStar
from .variance import GradientVariance, gradient_variance
from .version import __version__
from .virtual import SVGD, virtual_gradients
from .vsgd import VSGD, ConstantVSGD
from .weight_decay import param_groups

__all__ = [
    "VSGD",
    "ConstantVSGD",
    "AdaBayes",
    "AdaBayesFP",
    "SVAG",
    "MSVAG",
    "AdamStar",
    "MSGD",
    "SSD",
    "MSSD",
    "SVGD",
    "virtual_gradients",
    "param_groups",
    "convert_state",
    "GradientVariance",
    "gradient_variance",
    "__version__",
]

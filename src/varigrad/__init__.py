"""PyTorch optimizers that treat the gradient as a noisy observation of a true one."""

from .adabayes import AdaBayes, AdaBayesFP
from .adaptive import AdaptiveVSGD
from .belief import Belief, belief_of
from .convert import convert_state
from .gradient_release import step_in_backward
from .monitor import NoiseMonitor
from .muon import AdaptiveMuon
from .noise import NoiseScale, noise_scale
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
    "AdaptiveVSGD",
    "AdaptiveMuon",
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
    "step_in_backward",
    "convert_state",
    "Belief",
    "belief_of",
    "NoiseScale",
    "noise_scale",
    "NoiseMonitor",
    "GradientVariance",
    "gradient_variance",
    "__version__",
]

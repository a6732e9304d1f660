"""PyTorch optimizers that treat the gradient as a noisy observation of a true one."""

from .version import __version__
from .vsgd import VSGD, ConstantVSGD

__all__ = ["VSGD", "ConstantVSGD", "__version__"]

"""The variance of the gradient inside a mini-batch.

`choice` has the function `gradient_variance`, `handle` what it returns. Its methods: `samples` ("vmap") and,
on top of `passes`, `microbatch`, `ranks` and `layers`; the last rests on `terms`, `convolution` and `operations`.
"""

from .choice import gradient_variance
from .handle import GradientVariance

__all__ = ["GradientVariance", "gradient_variance"]

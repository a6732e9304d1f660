"""Closed forms that the methods of this library are argued with, as functions to compute and to plot.

How much to trust a noisy gradient (`sign_adaptation_factor` and its siblings), what a moving average does to noise
(`moving_average_variance`), when a sign is a better direction than a gradient (`StochasticQuadratic`,
`sgd_improvement`, `ssd_improvement`), and where the recursions of AdaBayes, VSGD and the Kalman filter come to rest.

The element-wise functions take numbers or tensors, which broadcast. They compute in float64 and return a float where
all arguments are numbers, otherwise a float64 tensor. Each raises TypeError for an argument that is not a real number
or tensor, and ValueError, with the argument, the value and the accepted range, for one that is out of range.
"""

from .adabayes import adabayes_fixed_point, adabayes_fp_variance
from .adaptation import (
    adam_adaptation_factor,
    sign_adaptation_factor,
    sign_success_probability,
    svag_adaptation_factor,
)
from .averaging import (
    mean_variance_coefficient,
    minibatch_gradient_variance,
    moving_average_variance,
    moving_average_weights,
)
from .improvement import ExpectedImprovement, sgd_improvement, ssd_improvement, ssd_improvement_bound
from .local_level import local_level_gain
from .normal import expected_sign_product
from .quadratic import (
    StochasticQuadratic,
    ill_conditioned_spectrum,
    mildly_conditioned_spectrum,
    p_diag,
    random_rotation,
)
from .vsgd import calibrated_observation_variance, vsgd_stationary_variances, vsgd_variance_floor

__all__ = [
    "sign_success_probability",
    "sign_adaptation_factor",
    "adam_adaptation_factor",
    "svag_adaptation_factor",
    "moving_average_weights",
    "moving_average_variance",
    "mean_variance_coefficient",
    "minibatch_gradient_variance",
    "StochasticQuadratic",
    "mildly_conditioned_spectrum",
    "ill_conditioned_spectrum",
    "random_rotation",
    "p_diag",
    "expected_sign_product",
    "ExpectedImprovement",
    "sgd_improvement",
    "ssd_improvement",
    "ssd_improvement_bound",
    "adabayes_fixed_point",
    "adabayes_fp_variance",
    "vsgd_variance_floor",
    "vsgd_stationary_variances",
    "calibrated_observation_variance",
    "local_level_gain",
]

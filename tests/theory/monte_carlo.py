"""Comparison of a sample mean with the expectation that it estimates."""

import numpy as np


def assert_mean(samples, expected):
    """The mean over the first axis lies within 5 standard errors (and rounding) of the expectation, in every entry."""
    samples, expected = (np.asarray(values, dtype=np.float64) for values in (samples, expected))
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples)) + 1e-12 * np.abs(expected)
    deviation = np.abs(samples.mean(axis=0) - expected)
    assert np.all(deviation <= 5 * error), f"off by {np.max(deviation / error):.1f} standard errors"

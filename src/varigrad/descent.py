"""The step that every other one is measured by: along the gradient, whoever has made it."""

# mypy: allow-untyped-defs, allow-untyped-calls
# A rule has no types of its own: it is run on tensors, on numbers and on the symbols that trace it.

from .engine.rule import rule

__all__ = ["descend"]


@rule(state=())
def descend(param, grad, *, lr):
    """Gradient descent."""
    return (param - lr * grad,)

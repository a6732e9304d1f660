"""Before anything here imports a trainer."""

from .operators import declare_operators

declare_operators()

"""Exercises that answer back: each room's checks tell a student right, wrong and why.

Notebooks and tests call it, and nothing else does. It may know every room of the library, so that a check computes its
truth with the very code that the notebook taught.
"""

from emosafe_lib.teaching.exercises import check

__all__ = ["check"]

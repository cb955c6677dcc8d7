"""Why tasks of a federation are done."""

from __future__ import annotations

from enum import Enum


class Purpose(str, Enum):
    """A task's purpose, as a journal and tracking have it."""

    CLIENT = "client"
    ROUND = "round"
    EVALUATE = "evaluate"
    REFINE = "refine"
    GLOBAL = "global"
    STUDENT = "student"
    BASELINE = "baseline"

    __str__ = str.__str__

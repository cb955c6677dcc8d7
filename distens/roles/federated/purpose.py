"""The purposes of a federation's tasks."""

from __future__ import annotations

from enum import Enum


class FederatedPurpose(str, Enum):
    """The purpose of a task, by the name that journal and tracking use."""

    CLIENT = "client"
    ROUND = "round"
    EVALUATE = "evaluate"
    REFINE = "refine"
    GLOBAL = "global"
    STUDENT = "student"
    BASELINE = "baseline"

    __str__ = str.__str__

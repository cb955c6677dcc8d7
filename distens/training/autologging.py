"""MLflow's automatic logging, which a user may have turned on for fits of his own: ours are none of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_autologging() -> Iterator[None]:
    """Let no fit during the body be logged by `mlflow.autolog` or its like; the user's settings stay as they are.

    Otherwise members that are trained in the user's own process, and the models of a search, would write their params,
    metrics and pickled models into the user's active run or experiment.
    """
    found = sys.modules.get("mlflow.utils.autologging_utils")  # if it is not loaded, nothing is logged
    # MLflow's own context always ends with logging allowed, so that it must not be entered a second time.
    if found is None or getattr(found, "_AUTOLOGGING_GLOBALLY_DISABLED", False):
        yield
        return
    with found.disable_autologging():
        yield

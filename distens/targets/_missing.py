"""Rows whose target is missing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distens.errors import DataError


def check_present(present_N: NDArray[np.bool_], where: str) -> None:
    """Check that every row has a target.

    Raises:
        DataError: some rows have none; the message names the first.
    """
    missing = np.flatnonzero(~np.asarray(present_N))
    if len(missing):
        first = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise DataError(f"{where}: the target is missing in {len(missing)} rows, from 0: {first}. Leave these rows out")

"""The simplest nodes of a search space: a constant, a range, a normal distribution.

A node draws a value, checks whether a value is one of its own, changes a value a little, and encodes values: `skip`
gives the columns of a row in which the node does not exist, and `fill` overwrites them in the rows where it exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np

from distens.errors import ConfigError
from distens.records import Floats

INACTIVE = -1.0
"""The encoding of a range that does not exist in some settings (DivBO's specification, section 3)."""

TAIL = 0.001
"""The probability beyond each end of a normal distribution: it has no ends, so those of its inner 99.8% are taken
(3.1 standard deviations)."""


class Node(Protocol):
    """A part of a search space: it may be one value or be composed of other nodes.

    One is parsed from a config's value, drawn from, and encoded:

        >>> import numpy as np
        >>> from distens.space._parsing import parse_node
        >>> from distens.space._parts import encode_values
        >>> node = parse_node({"low": 0.0, "high": 2.0}, "members.net.dropout")
        >>> node.contains(node.draw(np.random.default_rng(0))), node.contains(3.0)
        (True, False)
        >>> encode_values(node, [0.5]).tolist()
        [[0.25, 1.0]]
    """

    @property
    def width(self) -> int:
        """Return the number of columns in which the node is encoded."""
        ...

    def draw(self, rng: np.random.Generator) -> Any:
        """Return a random value: of a normal distribution where the node is one, else uniform."""
        ...

    def contains(self, value: Any) -> bool:
        """Return True if `draw` could have made this value."""
        ...

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        """Write the columns of each value into its row of `out`."""
        ...

    def skip(self, out: list[float]) -> None:
        """Append the columns of a row in which this node does not exist."""
        ...

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        """Return a value with one domain changed."""
        ...

    def domains(self, value: Any) -> int:
        """Return the number of domains from which a value was drawn."""
        ...

    def corners(self) -> Iterator[Any]:
        """Yield values that together take every end of every range and every choice."""
        ...

    def count(self) -> float:
        """Return the number of different values; infinite for a range of real numbers or a normal distribution."""
        ...


@dataclass(frozen=True)
class Constant:
    """One fixed value; it takes up no columns."""

    value: Any

    width = 0

    def draw(self, rng: np.random.Generator) -> Any:
        return self.value

    def contains(self, value: Any) -> bool:
        return value == self.value

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        pass

    def skip(self, out: list[float]) -> None:
        pass

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        return value

    def domains(self, value: Any) -> int:
        return 0

    def corners(self) -> Iterator[Any]:
        yield self.value

    def count(self) -> float:
        return 1


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, uniform on a linear or a logarithmic scale."""

    low: float
    high: float
    log: bool
    whole: bool
    step: float = 0  # every value is a multiple of it, low and high included; 0 allows every number between them

    width = 2

    def _scale(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        return ((math.log(value) if self.log else value) - low) / (high - low)

    def _unscale(self, unit: float) -> float | int:
        unit = min(max(unit, 0.0), 1.0)
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = low + unit * (high - low)
        value = min(max(math.exp(value) if self.log else value, self.low), self.high)
        return self._multiple(round(value / self.step)) if self.step else float(value)

    def _multiple(self, number: int) -> float | int:
        return int(number * self.step) if self.whole else multiple(number, self.step)

    def draw(self, rng: np.random.Generator) -> Any:
        if self.step and not self.log:
            return self._multiple(int(rng.integers(round(self.low / self.step), round(self.high / self.step) + 1)))
        return self._unscale(rng.random())

    def contains(self, value: Any) -> bool:
        if not is_number(value) or (self.whole and not float(value).is_integer()):
            return False
        if self.step:
            return is_multiple(value, self.step) and self.low <= self._multiple(round(value / self.step)) <= self.high
        return self.low <= value <= self.high

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        numbers = np.array([math.log(value) for value in values] if self.log else values, dtype=np.float64)
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        out[:, 0], out[:, 1] = (numbers - low) / (high - low), 1.0

    def skip(self, out: list[float]) -> None:
        out += (INACTIVE, 0.0)

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        moved = self._unscale(self._scale(value) + 0.2 * rng.standard_normal())
        if moved != value:
            return moved
        # The change was too small to reach another multiple, or left the range: take the next number on either side.
        if self.step:
            number = round(value / self.step)
            sides = [self._multiple(number - 1), self._multiple(number + 1)]
        else:
            sides = [value - 0.1 * (self.high - self.low), value + 0.1 * (self.high - self.low)]
        sides = [side for side in sides if self.low <= side <= self.high]
        return sides[int(rng.integers(len(sides)))]

    def domains(self, value: Any) -> int:
        return 1

    def corners(self) -> Iterator[Any]:
        yield self._unscale(0.0)
        yield self._unscale(1.0)

    def count(self) -> float:
        return round((self.high - self.low) / self.step) + 1 if self.step else math.inf


@dataclass(frozen=True)
class Normal:
    """Numbers from a normal distribution.

    On the unit scale a number is its cumulative probability, so that half of the scale holds half of the draws.
    """

    mean: float
    sd: float
    step: float = 0  # as in Range

    width = 2

    def _rounded(self, value: float) -> float:
        return multiple(round(value / self.step), self.step) if self.step else value

    def draw(self, rng: np.random.Generator) -> Any:
        return self._rounded(float(rng.normal(self.mean, self.sd)))

    def contains(self, value: Any) -> bool:
        if not is_number(value):
            return False
        return not self.step or is_multiple(value, self.step)

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        below = NormalDist(self.mean, self.sd).cdf
        out[:, 0], out[:, 1] = [below(value) for value in values], 1.0

    def skip(self, out: list[float]) -> None:
        out += (INACTIVE, 0.0)

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        normal = NormalDist(self.mean, self.sd)
        unit = normal.cdf(value) + 0.2 * rng.standard_normal()
        moved = self._rounded(normal.inv_cdf(min(max(unit, TAIL), 1 - TAIL)))
        if moved != value:
            return moved
        aside = (self.step or 0.1 * self.sd) * (1 if rng.integers(2) else -1)
        return self._rounded(value + aside)

    def domains(self, value: Any) -> int:
        return 1

    def corners(self) -> Iterator[Any]:
        for unit in (TAIL, 1 - TAIL):
            yield self._rounded(NormalDist(self.mean, self.sd).inv_cdf(unit))

    def count(self) -> float:
        return math.inf


def multiple(number: int, step: float) -> float:
    """Return number x step without rounding noise: 3 x 0.1 is 0.3."""
    return float(f"{number * step:.12g}")


def is_multiple(value: float, step: float) -> bool:
    return math.isclose(value / step, round(value / step), rel_tol=1e-9, abs_tol=1e-9)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def parse_range(value: Mapping[str, Any], where: str) -> Node:
    low, high, log, step = value.get("low"), value.get("high"), value.get("log", False), value.get("step", 0)
    if set(value) - {"low", "high", "log", "step"} or not _are_numbers(low, high, step) or not isinstance(log, bool):
        form = "{low: number, high: number, log: true or false, step: number}"
        raise ConfigError(f"{where}: a range is {form}, found {dict(value)!r}{_meant(value)}")
    assert low is not None and high is not None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{where}: no number lies in the range from {low} to {high}; low must be below high")
    if log and low <= 0:
        raise ConfigError(f"{where}: a logarithmic range starts above 0, found low: {low}")
    whole = isinstance(low, int) and isinstance(high, int) and isinstance(step, int)
    if "step" not in value:
        return Range(low, high, log, whole, 1 if whole else 0)
    _check_step(step, where)
    # An end that is no multiple moves inwards to the next one, as in Ray Tune.
    first = round(low / step) if is_multiple(low, step) else math.ceil(low / step)
    last = round(high / step) if is_multiple(high, step) else math.floor(high / step)
    if first >= last:
        raise ConfigError(f"{where}: fewer than two multiples of the step {step} lie from {low} to {high}")
    ends = (first * step, last * step) if whole else (multiple(first, step), multiple(last, step))
    return Range(*ends, log, whole, step)


def parse_normal(value: Mapping[str, Any], where: str) -> Node:
    mean, sd, step = value["mean"], value["sd"], value.get("step", 0)
    if set(value) - {"mean", "sd", "step"} or not _are_numbers(mean, sd, step):
        form = "{mean: number, sd: number, step: number}"
        raise ConfigError(f"{where}: a normal distribution is {form}, found {dict(value)!r}")
    if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
        raise ConfigError(f"{where}: a normal distribution has a finite mean and an sd above 0, found {dict(value)!r}")
    if "step" in value:
        _check_step(step, where)
    return Normal(mean, sd, step)


def _meant(value: Mapping[str, Any]) -> str:
    """Return a hint to the keys of a range that were meant by others."""
    missing = [key for key in ("low", "high", "log", "step") if key not in value]
    strange = [str(key) for key in value if key not in ("low", "high", "log", "step")]
    close = [match for key in strange for match in get_close_matches(key, missing, n=1, cutoff=0.5)]
    return f". Did you mean {' and '.join(close)}?" if close else ""


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _check_step(step: float, where: str) -> None:
    if not (math.isfinite(step) and step > 0):
        raise ConfigError(f"{where}: a step is a number above 0, found {step}")

"""Early exit: rows on which a few members agree clearly are not evaluated by more members.

    members of stage 1 ─► margin outside the window? ─yes─► answer
                                   └no─► members of stage 2 ─► … ─► last stage: the full ensemble

Xia and Bouganis 2023, "Window-Based Early-Exit Cascades for Uncertainty Estimation: When Deep Ensembles are More
Efficient than Single Models": only rows inside a window around the decision threshold go to the next stage. Here the
decision is the class, so the score is the margin between the two most probable classes, and its threshold is zero. A
window of zero width is the first stage alone, one of infinite width the full ensemble.

We differ: there are more than two stages, and one number, the window, sets all their thresholds. The mean of the first
k of M members is a sample of all members, drawn without replacement, so it deviates from the full mean in proportion to

    spread_k = sqrt(1 / k - 1 / M)            (with weights: see `spread`)

and a row stops after k members when its margin is at least window * spread_k. With only one number to choose there is
little to over-fit, and few rows of *combine* suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Gt

from distens.errors import ConfigError, shorten_value
from distens.probabilities import FLOOR, accuracy, apply_temperature, fit_temperature, mix
from distens.records import Floats, Integers

MAX_POINTS = 64
"""The largest number of windows that are measured."""

CONFIDENCE = 1.645
"""The number of standard errors in a one-sided bound at 95% confidence."""


@dataclass(frozen=True)
class Stage:
    """A group of members that predict together.

    Attributes:
        members: the members' indices in the bundle.
        spread: how far the mean of all members up to this stage deviates from the full mean; 0 in the last stage.
        temperature: applied to that mean for rows that stop here; unused in the last stage, which predicts as the full
            ensemble does.
    """

    members: tuple[int, ...]
    spread: float
    temperature: Annotated[float, Gt(0)]


@dataclass(frozen=True)
class OperatingPoint:
    """The cost and accuracy of one window, measured on the *combine* split.

    Attributes:
        window: the window.
        members: the mean number of members per row.
        share: the cost as a share of the full ensemble's.
        accuracy_change: the measured accuracy minus the full ensemble's.
        loss_bound: an upper bound of the loss of accuracy, with 95% confidence; see `_losses`.
    """

    window: float
    members: float
    share: float
    accuracy_change: float
    loss_bound: float


@dataclass(frozen=True)
class Cascade:
    """The stages of an early exit, in order, and points that were measured for ever wider windows."""

    stages: tuple[Stage, ...]
    points: tuple[OperatingPoint, ...]

    def window(self, mean_members: float | None = None, tolerance: float | None = None) -> float:
        """Return the window for a budget; infinite if only the full ensemble fits it.

        Args:
            mean_members: choose the widest window with at most this mean number of members per row on *combine*.
            tolerance: choose the narrowest window that loses at most this much accuracy, with 95% confidence. Windows
                are tested from the widest on until one fails, so that testing many costs no confidence (fixed sequence
                testing; Angelopoulos et al. 2021, "Learn then Test").
        """
        window = math.inf
        if mean_members is not None and mean_members < sum(len(stage.members) for stage in self.stages):
            window = max(p.window for p in self.points if p.members <= mean_members)
        if tolerance is not None:
            for point in reversed(self.points):
                if point.loss_bound > tolerance:
                    break
                window = point.window
        return window

    def to_json(self) -> dict[str, Any]:
        """Return the cascade as JSON values, from which pydantic can rebuild it."""
        return asdict(self)

    def check(self, members: int) -> None:
        """Check that the stages and points make a cascade over this number of members.

        Raises:
            ValueError: they do not.
        """
        if sorted(m for stage in self.stages for m in stage.members) != list(range(members)):
            raise ValueError("cascade.stages: every member must be in exactly one stage")
        if not all(stage.members for stage in self.stages):
            raise ValueError("cascade.stages: a stage has no members")
        spreads = [stage.spread for stage in self.stages]
        if spreads[-1] != 0 or min(spreads) < 0:
            raise ValueError(
                f"cascade.stages: spreads must not be negative and the last must be 0, found {shorten_value(spreads)}"
            )
        windows = [point.window for point in self.points]
        if windows[:1] != [0.0] or windows != sorted(windows) or self.points[0].members > 1:
            raise ValueError(
                "cascade.points: windows must grow from zero, where at most one member predicts a row; found "
                f"{shorten_value(windows)}"
            )


def check_budget(mean_members: float | None, tolerance: float | None) -> None:
    """Check a budget.

    Raises:
        ConfigError: both values are given, or one is out of range.
    """
    if mean_members is not None and tolerance is not None:
        raise ConfigError("give mean_members or tolerance, not both: each sets the cascade's window")
    if mean_members is not None and not mean_members >= 1:
        raise ConfigError(
            f"mean_members: at least one member predicts every row, so at least 1 is allowed, found {mean_members}"
        )
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ConfigError(
            f"tolerance: expected a loss of accuracy from 0 to below 1 (0.002 is 0.2 points), found {tolerance}"
        )


def predict_in_stages(
    stages: Sequence[Stage],
    window: float,
    weights_M: Floats,
    ask: Callable[[int, Floats], Floats],
    finish: Callable[[Floats], Floats],
    inputs: Floats,
) -> tuple[Floats, Integers]:
    """Return probs_NC of the cascade, and members_N, the number of members that predicted each row.

    Args:
        stages: the stages, in order.
        window: rows with a margin outside it stop.
        weights_M: the members' weights, in the bundle's order.
        ask: stage number and inputs -> probs_MNC of the stage's members.
        finish: probs_MNC of all members, in the bundle's order -> probs_NC of the full ensemble.
        inputs: the rows, preprocessed.
    """
    members_N = np.zeros(len(inputs), dtype=np.int64)
    open_N = np.arange(len(inputs))
    asked: dict[int, Floats] = {}
    stopped: list[tuple[Integers, Floats]] = []
    for k, stage in enumerate(stages[:-1]):
        asked |= zip(stage.members, ask(k, inputs), strict=True)
        members_N[open_N] += len(stage.members)
        weights = weights_M[list(asked)]
        mean_NC = mix(list(asked.values()), weights / weights.sum())
        stop_N = stops(margins(mean_NC), window, stage)
        if stop_N.any():
            stopped.append((open_N[stop_N], apply_temperature(mean_NC[stop_N], stage.temperature)))
            open_N, inputs = open_N[~stop_N], inputs[~stop_N]
            asked = {member: probs_NC[~stop_N] for member, probs_NC in asked.items()}
        if not len(open_N):
            break
    else:
        asked |= zip(stages[-1].members, ask(len(stages) - 1, inputs), strict=True)
        members_N[open_N] += len(stages[-1].members)
        stopped.append((open_N, finish(np.stack([asked[member] for member in range(len(asked))]))))
    out_NC = np.empty((len(members_N), stopped[0][1].shape[1]))
    for rows_N, probs_NC in stopped:
        out_NC[rows_N] = probs_NC
    return out_NC, members_N


def reachable(stages: Sequence[Stage], window: float) -> list[Stage]:
    """Return the stages without those at which no row can stop, since a margin is at most 1.

    The members of a stage that is left out predict with the next one, in fewer calls.
    """
    found: list[Stage] = []
    waiting: tuple[int, ...] = ()
    for stage in stages:
        waiting += stage.members
        if stage.spread == 0 or window * stage.spread <= 1:
            found.append(Stage(waiting, stage.spread, stage.temperature))
            waiting = ()
    return found


def margins(probs_NC: Floats) -> Floats:
    """Return margin_N, the most probable class's probability minus the second's; 0 for a tie."""
    two_N2 = np.partition(probs_NC, -2, axis=1)[:, -2:]
    return two_N2[:, 1] - two_N2[:, 0]


def stops(margin_N: Floats, window: float, stage: Stage) -> Any:
    """Return stop_N, True for rows outside the window; all rows stop at the last stage."""
    return margin_N >= window * stage.spread if stage.spread else np.ones(len(margin_N), dtype=bool)


def spread(weights_K: Floats, weights_rest: Floats) -> float:
    """Return the standard deviation of (mean of the first k members) - (mean of all), for members of variance one.

    With W the first k members' share of all weights, each of these members counts w (1 / W - 1) in that difference, and
    each of the rest -w. For equal weights this is sqrt(1 / k - 1 / M), the sampling error with the correction for a
    finite population (Cochran 1977, "Sampling Techniques", theorem 2.2).

    Args:
        weights_K: the weights of the first k members.
        weights_rest: the weights of all other members.
    """
    everything = weights_K.sum() + weights_rest.sum()
    asked, rest = weights_K / everything, weights_rest / everything
    return float(np.sqrt((1 / asked.sum() - 1) ** 2 * (asked**2).sum() + (rest**2).sum()))


def learn(
    probs_MNC: Floats | Sequence[Floats],
    labels_N: Integers,
    full_NC: Floats,
    weights_M: Floats,
    costs_M: Floats,
    calibrate: bool = True,
) -> Cascade:
    """Return the cascade of at least two members, learned from the *combine* split alone.

    Args:
        probs_MNC: the members' predictions on *combine*.
        labels_N: the labels of *combine*.
        full_NC: the full ensemble's predictions on *combine*; of a combiner that learns, those for rows that it did not
            learn from.
        weights_M: the selection's weights, positive.
        costs_M: the cost of a prediction by each member, in any unit.
        calibrate: whether to fit each stage's temperature; otherwise it is 1.
    """
    assert len(weights_M) > 1 and min(weights_M) > 0 and min(costs_M) > 0
    order = _order(probs_MNC, labels_N, weights_M, costs_M)
    stages: list[Stage] = []
    margin_KN, class_KN = [], []
    total_NC = np.zeros(np.shape(full_NC))
    for first, end in _bounds(len(order)):
        for member in order[first:end]:
            total_NC += float(weights_M[member]) * np.asarray(probs_MNC[member], dtype=np.float64)
        mean_NC = total_NC / weights_M[order[:end]].sum()
        last = end == len(order)
        away = 0.0 if last else spread(weights_M[order[:end]], weights_M[order[end:]])
        temperature = fit_temperature(mean_NC, labels_N) if calibrate and not last else 1.0
        stages.append(Stage(tuple(int(m) for m in order[first:end]), away, temperature))
        margin_KN.append(margins(mean_NC))
        class_KN.append(np.argmax(full_NC if last else mean_NC, axis=1))
    points = _points(stages, np.stack(margin_KN), np.stack(class_KN), labels_N, full_NC, costs_M)
    return Cascade(tuple(stages), points)


def _bounds(members: int) -> list[tuple[int, int]]:
    """Return the (first, end) bounds of stages of 1, 1, 2, 4, … members in order.

    Each stage halves the variance that is left, and few stages need few calls.
    """
    ends = [1]
    while ends[-1] < members:
        ends.append(min(2 * ends[-1], members))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _order(probs_MNC: Floats | Sequence[Floats], labels_N: Integers, weights_M: Floats, costs_M: Floats) -> Integers:
    """Return the members' indices in an order in which every prefix is good.

    The next member is the one with the largest gain of log-likelihood for its cost. If all that are left would lose
    some, it is the one with the smallest loss times cost.
    """
    rows = np.arange(len(labels_N))
    picked_MN = np.stack([np.asarray(probs_NC)[rows, labels_N] for probs_NC in probs_MNC]).astype(np.float64)
    left, order = list(range(len(weights_M))), []
    total_N, weight = np.zeros(len(labels_N)), 0.0
    reached = -math.log(np.shape(probs_MNC[0])[1])  # the log-likelihood of uniform probabilities
    while left:
        mixed_LN = (total_N + weights_M[left, None] * picked_MN[left]) / (weight + weights_M[left, None])
        reached_L = np.log(np.clip(mixed_LN, FLOOR, None)).mean(axis=1)
        gain_L = reached_L - reached
        best = int(np.argmax(np.where(gain_L > 0, gain_L / costs_M[left], gain_L * costs_M[left])))
        member = left.pop(best)
        order.append(member)
        total_N, weight = total_N + weights_M[member] * picked_MN[member], weight + weights_M[member]
        reached = reached_L[best]
    return np.array(order)


def _points(
    stages: Sequence[Stage],
    margin_KN: Floats,
    class_KN: Integers,
    labels_N: Integers,
    full_NC: Floats,
    costs_M: Floats,
) -> tuple[OperatingPoint, ...]:
    spread_K = np.array([stage.spread for stage in stages[:-1]])
    ratio_KN = margin_KN[:-1] / spread_K[:, None]
    members_K = np.cumsum([len(stage.members) for stage in stages])
    cost_K = np.cumsum([costs_M[list(stage.members)].sum() for stage in stages])
    calibrated_NC = apply_temperature(full_NC, fit_temperature(full_NC, labels_N))
    rows = np.arange(len(labels_N))
    right = accuracy(full_NC, labels_N)
    prior = _prior(calibrated_NC, class_KN)
    points: list[OperatingPoint] = []
    for window in (0.0, *np.unique(np.quantile(ratio_KN, np.linspace(0, 1, MAX_POINTS - 1)))):
        stop_KN = np.stack([stops(margin_N, window, s) for margin_N, s in zip(margin_KN, stages, strict=True)])
        exit_N = np.argmax(stop_KN, axis=0)
        class_N = class_KN[exit_N, rows]
        point = OperatingPoint(
            window=float(window),
            members=float(members_K[exit_N].mean()),
            share=float(cost_K[exit_N].mean() / cost_K[-1]),
            accuracy_change=float(np.mean(class_N == labels_N)) - right,
            loss_bound=_bound(_losses(calibrated_NC, class_KN[-1], class_N), prior),
        )
        if not points or point.members > points[-1].members:
            points.append(point)
    return tuple(points)


def _losses(calibrated_NC: Floats, full_N: Integers, class_N: Integers) -> Floats:
    """Return each row's expected loss of accuracy: p(the full ensemble's class) - p(the cascade's class).

    p are the full ensemble's probabilities. Measured with labels, the loss of the few rows whose class changes would be
    1, 0 or -1. The expected losses have the same mean if the full ensemble is calibrated, and a far smaller variance.
    They are never negative: a cascade gains nothing where it is right by luck and the full ensemble is not.
    """
    rows = np.arange(len(full_N))
    return calibrated_NC[rows, full_N] - calibrated_NC[rows, class_N]


def _prior(calibrated_NC: Floats, class_KN: Integers) -> float:
    """Return the mean expected loss of the rows whose class changes after the first stage; 1 if there are none."""
    loss_N = _losses(calibrated_NC, class_KN[-1], class_KN[0])
    changed_N = class_KN[-1] != class_KN[0]
    return float(loss_N[changed_N].mean()) if changed_N.any() else 1.0


def _bound(loss_N: Floats, prior: float) -> float:
    """Return an upper bound of the mean loss at 95% confidence.

    It is the normal bound, with one more row whose class changes and which loses `prior`: no change seen in N rows does
    not prove that there is none (Laplace's rule).
    """
    total, squares = loss_N.sum() + prior, (loss_N**2).sum() + prior**2
    return float((total + CONFIDENCE * math.sqrt(squares)) / (len(loss_N) + 1))

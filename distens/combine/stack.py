"""A stacker that is as simple as the rows allow: from the selection's own mean to a linear map of all members."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Gt, Le

from distens.combine import _pools
from distens.combine._pools import OpinionPool
from distens.probabilities import FLOOR, mix, softmax
from distens.records import Floats, Integers, State
from distens.targets.protocol import Target, Targets

_STRENGTHS = (100.0, 10.0, 1.0)
"""The values of l2 that cross-validation chooses from, simplest (nearest to the selection's own weights) first."""

_USUAL_L2 = 10.0
_FOLDS = 5
_FOLD_TOLERANCE = 1e-9
"""The tolerance, as a share of the loss, of fits that are only compared."""

_AVERAGE = "average"
Option = tuple[str, float]


@dataclass(frozen=True)
class Stack:
    """Stack: the logarithmic opinion pool, fitted, with as many weights as cross-validation justifies.

        p_NC = softmax(sum_m w_m log p_mNC + b_C),  w >= 0                       `constant`

    with a weight for each member, for each member and class (`per_class`), or with a full linear map of all members'
    log-probabilities to logits (`linear`, a multinomial logistic regression on them), minimising, over the rows of the
    *combine* split,

        sum_n -log p_n,label(n)  +  l2 (|w - weights|^2 + |b|^2)

    The form is the logarithmic opinion pool (Genest and Zidek 1986, "Combining Probability Distributions: A Critique
    and an Annotated Bibliography"; Heskes 1998, "Selecting Weighting Factors in Logarithmic Opinion Pools"); fitting
    it on held-out predictions is stacking (Wolpert 1992), with non-negative weights after Breiman 1996, "Stacked
    Regressions"; the sum of the weights is free, so the pool also sharpens or softens, as Platt scaling does. We
    differ in pulling towards the selection's weights instead of zero. The loss is a sum, so the pull matters less the
    more rows there are, and with few rows the result is the weighted pool itself.

    Options that are left open are chosen by 5-fold cross-validation on the given rows. The usual pool is `constant` (or
    the form asked for) with l2 = 10 (or the l2 asked for). It is kept unless the best of all forms and strengths is
    better by more than one standard error of the row by row difference. Then the simplest one within one standard
    error of the best is taken (Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3). Simplest of
    all is `average`, the weighted mean; then come the forms as above, each from the strongest pull to the weakest.
    So extra freedom is used only where it is seen to help. We differ in that the usual pool comes first, not the
    simplest: with some hundreds of rows a standard error is so wide that the mean would be kept where the pool is
    nearly always better. A form's weaker pulls are not tried once the loss has risen. With fewer than 10 rows nothing
    is tried, and the usual pool is taken.

    Attributes:
        form: `constant`, `per_class`, `linear`, or `auto`: one of them or the weighted mean.
        l2: strength of the pull, in rows' worth of loss. None: chosen among 100, 10 and 1.
    """

    form: Literal["auto", "constant", "per_class", "linear"] = "auto"
    l2: Annotated[float, Gt(0), Le(1e9)] | None = None

    needs: ClassVar[Literal["classes"]] = "classes"

    def fit(
        self,
        predictions_MNK: Floats,
        targets_N: Targets,
        weights_M: Floats,
        target: Target | None = None,
        inputs_N: Floats | None = None,
    ) -> State:
        """Learn `weights` (M, or M C, or M C C) and `bias` (C); the form and the l2 used are in the description."""
        pull_M, targets_N = np.asarray(weights_M, dtype=np.float64), np.asarray(targets_N)
        # Members are sorted, so that sums are the same, bit for bit, in whatever order members came.
        order_M = np.array(_order(predictions_MNK, pull_M))
        probs = [np.asarray(predictions_MNK[m]) for m in order_M]
        logs_MNC, pull_M = np.stack([_pools.logs(p) for p in probs]), pull_M[order_M]
        form, l2 = self._choose(probs, logs_MNC, targets_N, pull_M)
        classes = logs_MNC.shape[2]
        if form == _AVERAGE:
            pool = OpinionPool(pull_M / pull_M.sum(), np.zeros(classes))
        else:
            pool = _pools.fit_pool(logs_MNC, targets_N, _pools.start(form, pull_M, classes), l2)
        back_M = np.argsort(order_M)
        arrays = {"weights": pool.weights[back_M], "bias": pool.bias_C, "order": order_M}
        return State(arrays, {"form": form, **({} if form == _AVERAGE else {"l2": l2})})

    def combine(
        self, predictions_MNK: Floats, state: State, target: Target | None = None, inputs_N: Floats | None = None
    ) -> Floats:
        """Return probs_NC (float64); rows sum to one."""
        weights = state.arrays["weights"]
        # States from before there were forms have one weight per member, and no order.
        order_M = state.arrays.get("order", np.arange(len(weights)))
        if state.meta.get("form", "constant") == _AVERAGE:
            return _mean([predictions_MNK[m] for m in order_M], weights[order_M])
        logits_NC = np.zeros(np.shape(predictions_MNK[0]), dtype=np.float64) + state.arrays["bias"]
        for m in order_M:
            if weights[m].any():
                logs_NC = _pools.logs(predictions_MNK[m])
                logits_NC += logs_NC @ weights[m] if weights.ndim == 3 else logs_NC * weights[m]
        return softmax(logits_NC)

    def _choose(self, probs: list[Floats], logs_MNC: Floats, targets_N: Integers, pull_M: Floats) -> Option:
        usual = ("constant" if self.form == "auto" else self.form, _USUAL_L2 if self.l2 is None else self.l2)
        rows, strengths = len(targets_N), _STRENGTHS if self.l2 is None else (self.l2,)
        if rows < 2 * _FOLDS or (self.form != "auto" and self.l2 is not None):
            return usual
        losses = {(_AVERAGE, np.inf): _losses(_mean(probs, pull_M), targets_N)} if self.form == "auto" else {}
        for form in _pools.FORMS if self.form == "auto" else (self.form,):
            losses |= _held_out_losses(logs_MNC, targets_N, pull_M, form, strengths)
        best_N = min(losses.values(), key=np.mean)
        for option in [usual, *losses] if usual in losses else losses:
            behind_N = losses[option] - best_N
            if behind_N.mean() <= behind_N.std(ddof=1) / np.sqrt(rows):
                return option
        raise AssertionError("the best option is within one standard error of itself")


def _held_out_losses(
    logs_MNC: Floats, targets_N: Integers, pull_M: Floats, form: str, strengths: tuple[float, ...]
) -> dict[Option, Floats]:
    """Return, for each strength until the mean has risen, the loss of every row by the pool fitted without it.

    Each fit starts from the one before.
    """
    pull, losses = _pools.start(form, pull_M, logs_MNC.shape[2]), {}
    fold_N, pools = np.empty(len(targets_N), dtype=np.int64), [pull] * _FOLDS
    fold_N[np.argsort(targets_N, kind="stable")] = np.arange(len(targets_N)) % _FOLDS  # classes spread over all folds
    least = np.inf
    for l2 in strengths:
        held_out_NC = np.empty(logs_MNC.shape[1:])
        for fold in range(_FOLDS):
            seen, left = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
            pools[fold] = _pools.fit_pool(logs_MNC[:, seen], targets_N[seen], pull, l2, pools[fold], _FOLD_TOLERANCE)
            held_out_NC[left] = softmax(pools[fold].logits(logs_MNC[:, left]))
        losses[form, l2] = _losses(held_out_NC, targets_N)
        if losses[form, l2].mean() > least:
            break
        least = losses[form, l2].mean()
    return losses


def _losses(probs_NC: Floats, targets_N: Integers) -> Floats:
    return -np.log(np.maximum(probs_NC[np.arange(len(targets_N)), targets_N], FLOOR))


def _mean(probs: list[Floats], weights_M: Floats) -> Floats:
    """Return the weighted mean, scaled: members predict float32, whose rows sum to one only to 1e-7."""
    mixed_NC = mix(probs, weights_M)
    return mixed_NC / mixed_NC.sum(axis=1, keepdims=True)


def _order(predictions_MNK: Floats, weights_M: Floats) -> list[int]:
    def key(m: int) -> tuple[float, bytes]:
        return weights_M[m], hashlib.sha256(np.ascontiguousarray(predictions_MNK[m]).tobytes()).digest()

    return sorted(range(len(weights_M)), key=key)

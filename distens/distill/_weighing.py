"""The teachers' weights: how Co-Boosting learns them, and which of them are used."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from distens.data.dataset import Examples
from distens.distill._ensemble import TeacherEnsemble
from distens.distill._epochs import batches, cpu_generator
from distens.distill._pool import SyntheticRows
from distens.distill._teachers import FrozenTeachers
from distens.training.network import local_chance

_STEP_SHARES = (1.0, 0.5, 0.25)
"""The shares of the way to new weights that are tried, in order."""

_ROWS = 256
"""The number of rows that teachers predict at a time."""


class EnsembleWeights:
    """Teachers' weights that stay as they are."""

    def __init__(self, weights_M: Tensor, ensemble: TeacherEnsemble) -> None:
        self.weights_M, self.ensemble = weights_M, ensemble

    def ensemble_logits(self, logits_MNC: Tensor) -> Tensor:
        """Return the ensemble's logits_NC with the weights as they are now."""
        return self.ensemble(logits_MNC, self.weights_M)

    def learn(self, number: int, pool: SyntheticRows) -> None:
        """Learn from the rows made before this epoch; here, nothing."""

    def curve_values(self) -> Mapping[str, float]:
        """Return a number for each curve of the weights, by name; here, none."""
        return {}

    def result(self) -> tuple[Tensor | None, Mapping[str, float]]:
        """Return the weights to use in the end, None if none were learned, and metrics of them."""
        return None, {}

    def state(self) -> Any:
        """Return the weights, as a tree for a checkpoint."""
        return {"weights": self.weights_M}

    def load(self, tree: Any) -> None:
        """Restore a state that `state` returned."""
        self.weights_M = tree["weights"].to(self.weights_M.device)


class SignedWeights(EnsembleWeights):
    """Weights that take a step by the gradient's sign for each batch of the pool: Co-Boosting's ensemble enhancement.

    Args:
        step: the length of a step in the first epoch; it is multiplied by `decay` after each epoch.
    """

    def __init__(
        self, weights_M: Tensor, ensemble: TeacherEnsemble, step: float, decay: float, batch_size: int, seed: int
    ) -> None:
        super().__init__(weights_M, ensemble)
        self._step, self._decay, self._batch_size, self._seed = step, decay, batch_size, seed

    def learn(self, number: int, pool: SyntheticRows) -> None:
        """Take the steps of one pass over the pool."""
        self.weights_M = self._step_over_pool(number, pool.logits_MNC, pool.labels_N)

    def _step_over_pool(self, number: int, logits_MNC: Tensor, labels_N: Tensor) -> Tensor:
        weights_M, size = self.weights_M, self._step * self._decay**number
        for rows in batches(len(labels_N), self._batch_size, cpu_generator(self._seed, "weights", number)):
            rows = rows.to(labels_N.device)
            weights_M = step_weights(self.ensemble, weights_M, logits_MNC[:, rows], labels_N[rows], size)
        return weights_M

    def curve_values(self) -> Mapping[str, float]:
        """Return the number of members that the weights are worth (see `effective_members`)."""
        return {"effective_members": effective_members(self.weights_M)}

    def result(self) -> tuple[Tensor | None, Mapping[str, float]]:
        """Return the last weights, and no metrics."""
        return self.weights_M, {}


class LabelledRows(NamedTuple):
    """Rows with labels, and the teachers' logits of them, by which weights are compared."""

    ensemble: TeacherEnsemble
    logits_MNC: Tensor
    labels_N: Tensor

    @classmethod
    def of(cls, labelled: Examples, teachers: FrozenTeachers, ensemble: TeacherEnsemble, device: str) -> LabelledRows:
        """Build a judge from a server's own labelled rows."""
        inputs = torch.tensor(np.asarray(labelled.inputs, dtype=np.float32))
        with torch.no_grad(), local_chance(device):
            parts = [teachers.logits(rows.to(device)) for rows in inputs.split(_ROWS)]
        targets: Any = np.asarray(labelled.targets)
        labels_N = targets.argmax(axis=1) if targets.ndim == 2 else targets
        return cls(ensemble, torch.cat(parts, dim=1), torch.tensor(labels_N, dtype=torch.int64).to(device))

    def halves(self) -> tuple[LabelledRows, LabelledRows]:
        """Return two judges: one of every other row, and one of the rest."""
        first, second = (LabelledRows(self.ensemble, self.logits_MNC[:, i::2], self.labels_N[i::2]) for i in (0, 1))
        return first, second

    def measure(self, weights_M: Tensor) -> tuple[Tensor, int]:
        """Return A_w's cross-entropy of every row (N,), float64, and the number of rows that it errs on."""
        ensemble_NC = self.ensemble(self.logits_MNC, weights_M).double()
        loss_N = functional.cross_entropy(ensemble_NC, self.labels_N, reduction="none")
        return loss_N, int((ensemble_NC.argmax(dim=1) != self.labels_N).sum())

    def no_worse(self, new_M: Tensor, old_M: Tensor) -> bool:
        """Return True if neither the mean loss nor the number of errors grows."""
        (new_N, new), (old_N, old) = self.measure(new_M), self.measure(old_M)
        return bool(new_N.mean() <= old_N.mean()) and new <= old

    def clearly_better(self, new_M: Tensor, old_M: Tensor) -> bool:
        """Return True if the mean loss falls by more than the standard error of its change, without a further error."""
        (new_N, new), (old_N, old) = self.measure(new_M), self.measure(old_M)
        change_N = new_N - old_N
        error = change_N.std() / len(change_N) ** 0.5
        return bool(change_N.mean() < -error) and new <= old

    def best(self, candidates: Mapping[str, Tensor]) -> str:
        """Return the name of the best weights, taken in order: later ones must be clearly better than earlier ones."""
        names = list(candidates)
        best = names[0]
        for name in names[1:]:
            if self.clearly_better(candidates[name], candidates[best]):
                best = name
        return best


class GuardedWeights(SignedWeights):
    """Weights that take the steps of `SignedWeights` only as far as a judge sees no harm in them.

    An epoch's new weights are kept if the judge finds that neither loss nor errors grow; else half of the way is tried,
    then a quarter; else the weights stay. The judge is every other of the server's labelled rows; the rest, by which no
    step was chosen, give the last verdict. Without labelled rows the judge is the rows made in the first tenth of the
    epochs, before any weight moved: they were made for the first weights, so other weights are at a disadvantage there;
    no weight is learned on them; and weights must stay worth half of the members or more.

    Args:
        signed: the length of the steps, and the weights to begin with if there is no judge.
        known: weights that need no learning, by name, `uniform` among them; in the end the learned weights are used
            only if they are clearly better than these.
        epochs: the number of epochs of the whole training.
        judge: all labelled rows of the server's own, by which learning begins with the best of `known`; None if the
            server has too few.
    """

    def __init__(
        self, signed: SignedWeights, known: Mapping[str, Tensor], epochs: int, judge: LabelledRows | None
    ) -> None:
        begin_M = known[judge.best(known)] if judge else signed.weights_M
        super().__init__(begin_M, signed.ensemble, signed._step, signed._decay, signed._batch_size, signed._seed)
        self._known, self._waits = known, 0 if judge else ceil(epochs / 10)
        self.judge, self._last = judge.halves() if judge else (None, None)

    def learn(self, number: int, pool: SyntheticRows) -> None:
        """Take the steps of one pass wholly, by half, by a quarter or not at all."""
        if self.judge is None and number >= self._waits:
            self.judge = LabelledRows(self.ensemble, pool.logits_MNC, pool.labels_N)
        rows = pool.made_N >= self._waits
        if self.judge is None or not rows.any():
            return
        wanted_M = self._step_over_pool(number, pool.logits_MNC[:, rows], pool.labels_N[rows])
        for share in _STEP_SHARES:
            tried_M = torch.lerp(self.weights_M, wanted_M, share)
            if self.allowed(tried_M) and self.judge.no_worse(tried_M, self.weights_M):
                self.weights_M = tried_M
                return

    def allowed(self, weights_M: Tensor) -> bool:
        """Return True if the weights are worth enough members, and are not all close to 0."""
        least = len(weights_M) / 2 if self._waits else 1.0
        return bool(weights_M.sum() > 1e-3) and effective_members(weights_M) >= least - 1e-9

    def result(self) -> tuple[Tensor | None, Mapping[str, float]]:
        """Return the best of the known weights and the learned ones, and the judge's measures of all of them."""
        known, labelled = {**self._known, "learned": self.weights_M}, float(not self._waits)
        if self.judge is None:  # there was only one epoch
            return known["uniform"], {"judge_rows": 0.0, "judge_labelled": labelled, "weights_learned": 0.0}
        last = self._last or self.judge
        best = last.best(known)
        told = {f"judged_{name}": last.measure(weights_M)[0].mean().item() for name, weights_M in known.items()}
        told |= {"judge_rows": float(len(last.labels_N)), "judge_labelled": labelled}
        return known[best], {**told, "weights_learned": float(best == "learned")}

    def state(self) -> Any:
        """Return the weights, and the judge if it is made-up rows, as a tree for a checkpoint."""
        return {**super().state(), "judge": list(self.judge[1:]) if self.judge and self._waits else None}

    def load(self, tree: Any) -> None:
        """Restore a state that `state` returned."""
        super().load(tree)
        if tree["judge"] is not None:
            self.judge = LabelledRows(self.ensemble, *(tensor.to(self.weights_M.device) for tensor in tree["judge"]))


def step_weights(
    ensemble: TeacherEnsemble, weights_M: Tensor, logits_MNC: Tensor, labels_N: Tensor, size: float
) -> Tensor:
    """Return clip(w - size * sign(gradient of the cross-entropy of A_w), 0, 1)."""
    with torch.enable_grad():
        moved_M = weights_M.detach().requires_grad_()
        loss = functional.cross_entropy(ensemble(logits_MNC, moved_M), labels_N)
        (gradient_M,) = torch.autograd.grad(loss, [moved_M])
    return (weights_M - size * gradient_M.sign()).clamp(0, 1)


def effective_members(weights_M: Tensor) -> float:
    """Return exp(entropy), the number of members that the weights are worth: M if uniform, 1 for a single member."""
    shares_M = weights_M.double() / weights_M.double().sum().clamp(min=1e-12)
    return float((-torch.special.xlogy(shares_M, shares_M).sum()).exp())

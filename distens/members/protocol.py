"""A member: something that learns from examples and predicts class probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

from distens.data.dataset import Examples
from distens.errors import Diverged
from distens.records import Floats, State
from distens.training.work import Work


class Member(Protocol):
    """A dataclass whose fields are its options; what it has learned is not a field.

    A member kind may also define `default_ranges(cls, template) -> template`, a class method that fills the search
    ranges its users would otherwise write out; the resolved config shows them. And `uses_gpu: ClassVar[bool] = False`
    if a GPU is of no use to it. With an option `epochs` and a method `last_epoch()` it can be trained in rungs (see
    `distens.schedule.protocol.in_parts`).
    """

    def fit(self, examples: Examples, work: Work) -> Mapping[str, float]:
        """Train from scratch, or from `work.checkpoint`, and return metrics; `parameters` must be among them.

        The same examples, seed and threads give the same member, bit for bit, on one machine, also when training
        was interrupted and went on from a checkpoint.

        Raises:
            Diverged: the loss or the predictions stopped being finite.
            Refused: these settings cannot work on these examples.
        """
        ...

    def predict(self, inputs: Floats) -> Floats:
        """Return probs_NC (float32): rows sum to one, columns are all C classes in order."""
        ...

    def state(self) -> State:
        """Return all that `predict` needs besides the settings. No pickle, ever."""
        ...

    def load(self, state: State) -> None:
        """Become the member that `state` describes; `predict` then gives the same probabilities, bit for bit."""
        ...


PLUGINS = (Member,)
"""What a user's own plug-in of this family must be: one of these."""


class Packable(Member, Protocol):
    """The optional part: a kind that can train, and ask, many of its members as one program.

    Attributes:
        free: settings, dotted (`learning_rate`, `model.dropout`), in which members of one pack may differ; all others
            are equal in a pack.
        asked: settings that members stacked for prediction have in common, but for those that are free.
    """

    free: ClassVar[tuple[str, ...]]
    asked: ClassVar[tuple[str, ...]]

    @classmethod
    def fit_pack(
        cls, members: Sequence[Packable], examples: Examples, works: Sequence[Work]
    ) -> Iterator[tuple[int, Mapping[str, float] | Diverged]]:
        """Train members together; yield each one's place and metrics (or why it stopped) as it finishes.

        A yielded member is ready for `predict` and `state`, and equals the same member trained alone to float
        tolerance. `seconds` among its metrics is its share of the pack's time. All `works` have one device.

        Raises:
            Refused: these settings cannot work on these examples.
        """
        ...

    def pack_advice(self, input_shape: tuple[int, ...], classes: int, gpu: bool) -> tuple[int, str]:
        """Return how many such members are best trained together, and why, in a few words; 1 if packs gain nothing."""
        ...

    @classmethod
    def stack(cls, members: Sequence[Packable]) -> Callable[[Floats], Floats]:
        """Return inputs -> probs_MNC (float32): what each member's `predict` returns, to float tolerance, in one pass.

        The members' weights are copied; `device` is where the first of them lies.
        """
        ...

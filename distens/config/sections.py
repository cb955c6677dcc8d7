"""The sections of a config, each of which checks its own shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from distens.errors import did_you_mean

Spec = dict[str, Any] | str
"""A plug-in: its name, or `{kind: name, option: value, …}`; the name is its file's, or `package.module:Class`."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Section(BaseModel):
    """Frozen, and without room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Splits(Section):
    """Shares of the rows, which sum to one; with `test: given`, for a source with a test part, the other three do.

    In a federation *train* is the clients' (or nobody's, where clients have sources of their own: then it only tells
    how to scale), and *search* and *combine* are the server's own: 0 where it has no such rows.
    """

    train: float = Field(0.5, gt=0, le=1)
    search: float = Field(0.15, ge=0, lt=1)
    combine: float = Field(0.15, ge=0, lt=1)
    test: Annotated[float, Field(gt=0, lt=1)] | Literal["given"] = 0.2

    @model_validator(mode="after")
    def _sums_to_one(self) -> Splits:
        total = self.train + self.search + self.combine + (0 if self.test == "given" else self.test)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares must sum to 1, they sum to {total:g}")
        return self


class DataSection(Section):
    """Where the rows are and how they are divided.

    Attributes:
        source: `sklearn:NAME`, a `.csv`, `.parquet` or `.npz` file, or a folder of idx files; any pyarrow address.
        target: the column to predict; for tables only.
        task: what is predicted: `classification` or `regression` (or the kind of another of `distens/targets`). Without
            it, classes; of `sklearn:diabetes`, a number.
        numeric: columns that must be numbers; the others are judged by what they hold.
        categorical: columns to treat as categories although they hold numbers.
        drop: columns to leave out.
        rows: use this many rows (a stratified choice) instead of all; a given test part stays whole.
        unseen: what prediction does with a category that no row of the table had: refuse, or treat as missing.
    """

    source: str
    target: str | None = None
    task: str | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    rows: int | None = Field(None, ge=10)
    unseen: Literal["error", "missing"] = "error"
    splits: Splits = Splits()  # pyright: ignore[reportCallIssue]


MEMBERS = 32
"""How many members are started where neither search nor schedule says when to stop."""


class SearchSection(BaseModel):
    """How many members, and which search names their settings. Other keys are options of the search.

    Attributes:
        members: how many are started; without, and without `seconds`, as many as the schedule says, or MEMBERS.
        seconds: nothing is dispatched any more once the search has run so long, over all resumes; what is being
            trained then is finished.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    kind: str = "divbo"
    members: int | None = Field(None, ge=1, le=1_000_000)
    seconds: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _of_a_name(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    def spec(self) -> dict[str, Any]:
        """Return the plug-in's part: kind and options."""
        return {"kind": self.kind, **(self.model_extra or {})}


class SweepSection(Section):
    """Whole runs over values of the config itself (`distens sweep`), the best chosen on the *combine* split.

    Attributes:
        over: dotted key of the config -> a domain as in `members`: `search.beta: {low: 0.01, high: 0.2}`.
        samples: how many runs.
        metric: a row of the table and what is measured of it, on *combine*: never *test*, which stays unread for the
            choice.
        mode: `min` or `max`; without it whichever is better of that metric.
        concurrency: runs at once; they share the cluster's room.
        search: one of `distens/search`.
    """

    over: dict[str, dict[str, Any]] = Field(min_length=1)
    samples: int = Field(ge=1)
    metric: str = "ensemble.nll"
    mode: Literal["min", "max"] | None = None
    concurrency: int = Field(1, ge=1)
    search: Spec = "random"


def _gpus(count: float) -> float:
    if count > 1 and not count.is_integer():
        raise ValueError("a fraction or a whole number of GPUs")
    return count


class Occupied(Section):
    """What members of one name occupy while they train; what is left out is as for all others.

    Attributes:
        cpus: also a fraction.
        gpus: a fraction of one, or a whole number.
        memory_gib: 0: nobody counts it.
        custom: name -> amount, of what a cluster's nodes have besides.
    """

    cpus: float | None = Field(None, gt=0)
    gpus: Annotated[float, AfterValidator(_gpus)] | None = Field(None, ge=0)
    memory_gib: float | None = Field(None, ge=0)
    custom: dict[str, Annotated[float, Field(gt=0)]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _knows_its_keys(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {key!r}. {did_you_mean(str(key), cls.model_fields)}")
        return values

    @model_validator(mode="after")
    def _says_something(self) -> Occupied:
        if not self.model_dump(exclude_none=True):
            raise ValueError("none of cpus, gpus, memory_gib, custom: has no effect")
        return self

"""The sections of a config, each of which checks its own shape."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from distens.errors import did_you_mean

Spec = dict[str, Any] | str
"""A plug-in: its name, or `{kind: name, option: value, …}`; the name is its file's, or `package.module:Class`."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Section(BaseModel):
    """A section of a config: frozen, with no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class SplitsSection(Section):
    """Shares of the rows, which sum to one; with `test: given` (a source with a test part) the other three do.

    With `train: given`, the source (a data module) has a validation part of its own: *train* is all other rows, and the
    other shares divide the validation part.

    In a federation *train* is divided among the clients. Where clients have sources of their own, *train* belongs
    to no client, and only the preprocessing is fitted on it. *search* and *combine* are the server's own; a share is 0
    where the server has no such rows.
    """

    train: Annotated[float, Field(gt=0, le=1)] | Literal["given"] = 0.5
    search: float = Field(0.15, ge=0, lt=1)
    combine: float = Field(0.15, ge=0, lt=1)
    test: Annotated[float, Field(gt=0, lt=1)] | Literal["given"] = 0.2

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitsSection:
        shares = (self.train, self.search, self.combine, self.test)
        total = sum(share for share in shares if not isinstance(share, str))
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares must sum to 1, they sum to {total:g}")
        return self


class FoldsSection(Section):
    """Cross-fitting: each row of *train* and *search* is predicted by a model that learned from the other folds.

    Attributes:
        folds: the number of folds; a member is as many models, and predicts their mean.
        repeats: how often the rows are divided anew; a member is `folds` models for each.
        refit: also train the selected members once more, each as one model on the rows of all folds. They are a row and
            a bundle of their own, `refit`, which has one model to predict with where a member has one for each fold.
    """

    folds: int = Field(ge=2, le=100)
    repeats: int = Field(1, ge=1, le=20)
    refit: bool = False

    @model_validator(mode="before")
    @classmethod
    def _of_a_number(cls, given: Any) -> Any:
        return {"folds": given} if isinstance(given, int) and not isinstance(given, bool) else given


def _written(marker: Any) -> Any:
    """Return a marker as it stands in a file: YAML reads `-999` as a number."""
    return str(marker) if isinstance(marker, int | float) and not isinstance(marker, bool) else marker


def _known_codec(name: str) -> str:
    try:
        "".encode(name)
    except LookupError as error:
        raise ValueError("unknown encoding; usual ones are utf-8, cp1252, latin-1, utf-16") from error
    return name


class CsvSection(Section):
    """The dialect of CSV files, where it cannot be found out; a key left out is found out.

    Attributes:
        separator: the character between values.
        decimal: the character before the fraction of a number.
        encoding: the encoding of the text, by Python's name. Files in UTF-8 are read as such all the same.
    """

    separator: str | None = Field(None, min_length=1, max_length=1, pattern=r"[^\r\n\"]")
    decimal: Literal[".", ","] | None = None
    encoding: Annotated[str, AfterValidator(_known_codec)] | None = None


def is_data_module(source: str) -> bool:
    """Return True if a source of rows is written as a class, `package.module:Class`."""
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", source) is not None and not source.startswith("sklearn:")


class DataSection(Section):
    """The source of the rows, and their division into splits.

    Attributes:
        source: `sklearn:NAME`, a `.csv`, `.parquet` or `.npz` file, or a folder of idx files; any pyarrow address; or
            `package.module:Class`, a LightningDataModule of the user's own (see `distens.data.data_modules`).
        target: the column to predict; for tables only.
        task: `classification` or `regression` (or the kind of another target of `distens/targets`). Without it,
            `classification`; for `sklearn:diabetes`, `regression`.
        numeric: columns that must be numbers; whether other columns are numbers depends on their content.
        categorical: columns to treat as categories although they hold numbers.
        drop: columns to leave out.
        missing: texts and numbers that stand for a missing value in every column, such as `?` or `-999`.
        dates: column -> the form of its dates, as `strftime` writes it (`"%d/%m/%Y"`), where it is not clear.
        csv: the dialect of a `.csv` file, where it is not clear.
        options: arguments of a LightningDataModule's constructor.
        rows: the number of rows to use (a stratified sample) instead of all; a given test part stays whole. It has no
            effect, and is refused, beside a given validation part.
        unseen: how prediction treats a category that is new to the model: `missing` (also if left out) as one of the
            rare categories of *train*, or as a missing value if there are none; `error` refuses what no row of the
            table has.
        folds: the number of folds into which the rows of *train* and *search* together are divided: members learn from
            all of them, and search and selection go by predictions of rows that a model has not seen. Without it,
            members learn from *train* alone and predict *search*.
    """

    source: str
    target: str | None = None
    task: str | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    rows: int | None = Field(None, ge=10)
    unseen: Literal["error", "missing"] | None = None
    missing: tuple[Annotated[str, BeforeValidator(_written)], ...] = ()
    dates: dict[str, str] = {}
    csv: CsvSection | None = None
    options: dict[str, Any] = {}
    splits: SplitsSection = SplitsSection()  # pyright: ignore[reportCallIssue]
    folds: FoldsSection | None = None


DEFAULT_MEMBERS = 32
"""The number of members that are started where neither search nor schedule sets a limit."""


ALL_FAMILIES_BEFORE = 2
"""The default of `search.all_families_before`."""


class SearchSection(BaseModel):
    """The number of members, and the search that proposes their settings; other keys are options of the search.

    Attributes:
        members: the number of members to start. Without it and `seconds`, the schedule's number, or DEFAULT_MEMBERS.
        seconds: the time limit of the search, over all resumes: after it nothing more is dispatched, and the members
            that are being trained are finished.
        stop_at: one metric -> a value, such as `{error: 0.05}`: once the ensemble of the members so far has this value
            or a lower one on the *search* split, nothing more is dispatched.
        all_families_before: n: every family of `members` is tried before any of them is tried for the nth time,
            whatever the search proposes and packs hold (in each bracket, if the search is `random`). With 2 a search
            of as many members as families tries each of them, which no larger number promises. 0, which older
            versions' runs have: as the search proposes.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    kind: str = "divbo"
    members: int | None = Field(None, ge=1, le=1_000_000)
    seconds: float | None = Field(None, gt=0)
    stop_at: dict[str, float] | None = Field(None, min_length=1, max_length=1)
    all_families_before: int = Field(ALL_FAMILIES_BEFORE, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _of_a_name(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @field_validator("all_families_before")
    @classmethod
    def _leaves_a_first(cls, given: int) -> int:
        if given == 1:
            raise ValueError("a family cannot be tried before its first time; give 2 or more, or 0 for no such rule")
        return given

    def spec(self) -> dict[str, Any]:
        """Return the search's own spec: its kind and options."""
        return {"kind": self.kind, **(self.model_extra or {})}


class SweepSection(Section):
    """A sweep of whole runs over values of the config (`distens sweep`); the best is chosen on the *combine* split.

    Attributes:
        over: dotted key of the config -> a domain as in `members`: `search.beta: {low: 0.01, high: 0.2}`.
        samples: the number of runs.
        metric: a row of the table and one of its metrics, measured on *combine*; the choice never reads *test*.
        mode: `min` or `max`; without it, whichever is better for that metric.
        concurrency: the number of runs at once; they share the cluster.
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


class ResourcesSection(Section):
    """The resources that members of one name occupy while they train; a key left out is as for all other members.

    Attributes:
        cpus: a number of CPUs, fractions included.
        gpus: a fraction of one GPU, or a whole number of GPUs.
        memory_gib: memory in GiB; 0: memory is not counted.
        custom: name -> amount of a resource that the cluster's nodes have besides.
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
    def _says_something(self) -> ResourcesSection:
        if not self.model_dump(exclude_none=True):
            raise ValueError("none of cpus, gpus, memory_gib, custom: has no effect")
        return self

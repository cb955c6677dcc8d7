"""A fuzzer: changed bundles and files are loaded and predicted with, and must be refused in words, or predict.

    python jobs/drill/fuzz.py --count 20000 --seed 1 --out /tmp/fuzz
    python jobs/drill/fuzz.py --only 137 --seed 1          # one case, in this process, with its traceback

Every case is made from the seed and its number alone. Cases run in processes that are forked from one that has imported
everything; each may take 5 seconds, and 1 GiB more than that process had. The table counts how they ended; the exit
code is 1 if one was a signal, hung, needed more memory or raised what is no error of the package. The files of those
are kept in the folder, where a further call with the same seed resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked process has none of the threads of its parent

from _fuzzed import KINDS, Genuine, make_all, write_case

from distens.errors import DistensError

CASE_SECONDS, CASE_BYTES = 5.0, 2**30
BATCH = 100
FINE, WRONG = ("refused", "predicted"), ("signal", "hang", "memory", "unexpected")
MAX_TEXT = 300


@dataclass
class Batch:
    """A forked process and the cases that it has yet to answer for."""

    process: int
    answers: Any
    cases: list[int]


@dataclass
class Tally:
    """How the cases ended so far.

    Attributes:
        ended: (kind, outcome) -> number of cases.
        done: the cases that ended.
        wrong: what is said of each case that ended wrong.
        peak_bytes: the most that a case added to its process's memory.
        longest_seconds: of a case.
    """

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    done: set[int] = field(default_factory=set)
    wrong: dict[int, str] = field(default_factory=dict)
    peak_bytes: int = 0
    longest_seconds: float = 0.0

    def add(self, case: int, outcome: str, text: str, seconds: float, grown: int) -> None:
        """Add a case."""
        self.done.add(case)
        self.ended[kind_of(case), outcome] += 1
        self.peak_bytes, self.longest_seconds = max(self.peak_bytes, grown), max(self.longest_seconds, seconds)
        if outcome in WRONG:
            self.wrong[case] = f"{kind_of(case)}: {outcome}: {text}"

    def table(self) -> str:
        """Return the counts as text, a line for each kind."""
        columns = (*FINE, *WRONG)
        lines = [f"{'kind':12}" + "".join(f"{name:>12}" for name in columns)]
        for kind in (*KINDS, "all"):
            counts = [
                sum(n for (of, how), n in self.ended.items() if how == name and kind in (of, "all")) for name in columns
            ]
            lines.append(f"{kind:12}" + "".join(f"{count:12,}" for count in counts))
        lines.append(f"longest {self.longest_seconds:.2f} s, most memory {self.peak_bytes / 2**20:,.0f} MiB")
        return "\n".join(lines)


def kind_of(case: int) -> str:
    """Return the kind of change of a case."""
    return KINDS[case % len(KINDS)]


def pick(case: int, seed: int, genuine: list[Genuine]) -> tuple[Genuine, Random]:
    """Return the genuine bundle of a case and its generator."""
    rng = Random(f"{seed}:{case}")
    wanted = [one for one in genuine if kind_of(case) != "text" or "lightgbm" in one.name]
    return rng.choice(wanted), rng


def try_case(case: int, seed: int, genuine: list[Genuine], folder: Path) -> tuple[str, str]:
    """Carry out a case; return how it ended, and the text of its error."""
    chosen, rng = pick(case, seed, genuine)
    try:
        read = write_case(kind_of(case), chosen, rng, folder)
        signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
        read()
        return "predicted", ""
    except BaseException as error:  # whatever a changed file may raise
        text = f"{chosen.name}: {type(error).__name__}: {error}"[:MAX_TEXT]
        if any(_lacks_memory(cause) for cause in _causes(error)):
            return "memory", text
        return ("refused" if isinstance(error, DistensError) else "unexpected"), text
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "bad_alloc" in str(error) or "allocate memory" in str(error)


def start_batch(cases: list[int], seed: int, genuine: list[Genuine], folder: Path) -> Batch:
    """Fork a process that carries out cases in turn and says how each ended."""
    answers = tempfile.TemporaryFile()  # noqa: SIM115 - `finish` closes it
    process = os.fork()
    if process:
        return Batch(process, answers, cases)
    _answer(cases, seed, genuine, folder / str(os.getpid()), answers.fileno())


def _answer(cases: list[int], seed: int, genuine: list[Genuine], folder: Path, write: int) -> NoReturn:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + CASE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)  # LightGBM writes what it thinks of a text
        for case in cases:
            before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
            outcome, text = try_case(case, seed, genuine, folder)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            answer = (case, outcome, text, time.perf_counter() - started, grown)
            os.write(write, json.dumps(answer).encode() + b"\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def finish(batch: Batch, tally: Tally, folder: Path) -> list[int]:
    """Note how a batch's cases ended; return those that it did not come to, because one ended its process."""
    with batch.answers as answers:
        answers.seek(0)
        for line in answers:
            case, *rest = json.loads(line)
            tally.add(case, *rest)
            batch.cases.remove(case)
    _, status = os.waitpid(batch.process, 0)
    shutil.rmtree(folder / str(batch.process), ignore_errors=True)
    if batch.cases:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        how = "hang" if number == signal.SIGALRM else "signal"
        text = signal.Signals(number).name if number else f"exit code {os.waitstatus_to_exitcode(status)}"
        tally.add(batch.cases.pop(0), how, text, CASE_SECONDS if how == "hang" else 0.0, 0)
    return batch.cases


def fuzz(args: argparse.Namespace, genuine: list[Genuine], tally: Tally, work: Path) -> None:
    """Carry out all cases that are not done, in processes beside each other."""
    left = [case for case in range(args.first, args.first + args.count) if case not in tally.done]
    running: dict[int, Batch] = {}
    with selectors.DefaultSelector() as ready:
        while left or running:
            while left and len(running) < args.jobs:
                batch = start_batch(left[:BATCH], args.seed, genuine, work)
                left = left[BATCH:]
                running[batch.process] = batch
                ready.register(_Ending(batch.process), selectors.EVENT_READ, batch)
            for key, _ in ready.select():
                ready.unregister(key.fileobj)
                os.close(key.fd)
                left = finish(running.pop(key.data.process), tally, work) + left
                keep(args, tally)
                print(f"{len(tally.done):,} cases, {len(tally.wrong)} wrong", file=sys.stderr)


class _Ending:
    """A file that can be read once a process has ended."""

    def __init__(self, process: int) -> None:
        self._number = os.pidfd_open(process)

    def fileno(self) -> int:
        return self._number


def keep(args: argparse.Namespace, tally: Tally) -> None:
    """Write how the cases ended so far into the folder for that, if there is one."""
    if args.out is None:
        return
    values = {
        "seed": args.seed,
        "done": sorted(tally.done),
        "ended": [[*key, count] for key, count in tally.ended.items()],
        "wrong": {str(case): text for case, text in tally.wrong.items()},
        "peak_bytes": tally.peak_bytes,
        "longest_seconds": tally.longest_seconds,
    }
    (args.out / "progress.json.new").write_text(json.dumps(values))
    (args.out / "progress.json.new").replace(args.out / "progress.json")


def resume(args: argparse.Namespace) -> Tally:
    """Return how the cases ended that an earlier call with this folder carried out."""
    path = args.out and args.out / "progress.json"
    if not path or not path.exists():
        return Tally()
    values = json.loads(path.read_text())
    if values["seed"] != args.seed:
        raise SystemExit(f"{args.out}: of seed {values['seed']}; choose another folder")
    ended = Counter({(kind, how): count for kind, how, count in values["ended"]})
    wrong = {int(case): text for case, text in values["wrong"].items()}
    return Tally(ended, set(values["done"]), wrong, values["peak_bytes"], values["longest_seconds"])


def main() -> int:
    """Return the exit code: 1 if a case ended wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=20_000, help="how many cases")
    parser.add_argument("--first", type=int, default=0, help="the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--out", type=Path, help="a folder for the files of cases that end wrong, and for resuming")
    parser.add_argument("--only", type=int, help="carry out this case alone, in this process")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    tally = resume(args)
    fast = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=fast) as folder:
        work = Path(folder)
        genuine = make_all(work / "genuine")
        if args.only is not None:
            chosen, rng = pick(args.only, args.seed, genuine)
            print(kind_of(args.only), chosen.name)
            print(write_case(kind_of(args.only), chosen, rng, work / "case")())
            return 0
        fuzz(args, genuine, tally, work)
        for case, text in sorted(tally.wrong.items()):
            print(f"{case} {text}")
            if args.out:
                chosen, rng = pick(case, args.seed, genuine)
                write_case(kind_of(case), chosen, rng, args.out / str(case))
    print(tally.table())
    return int(bool(tally.wrong))


if __name__ == "__main__":
    sys.exit(main())

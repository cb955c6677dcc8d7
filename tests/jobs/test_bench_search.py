import json

import _search_report as reporting
import _search_write as writing
import numpy as np
import pytest
from _search_clock import spent
from _search_figures import critical_differences
from _search_jobs import Job
from _search_live_report import relative
from _search_replay import OTHERS, PAPER_GREEDY, Plan, Replay, filled, selected
from _search_stats import (
    Counts,
    average_ranks,
    by_table,
    cliques,
    critical_difference,
    friedman,
    holm,
    wilcoxon,
)
from _search_tables import read, shares

SETTINGS = 12


def write_table(folder, name="toy", seconds=None, failed=()):
    """A cached table of 12 settings of one range; member k is right on the search rows n with n % 12 != k."""
    rng = np.random.default_rng(0)
    labels_N = np.arange(24) % 2
    settings = [{"family": "a", "kind": "estimator", "rate": float(v)} for v in rng.uniform(0.1, 0.9, SETTINGS)]
    probs, members, lost = [], [], []
    for k, one in enumerate(settings):
        entry = {"id": f"m{k:04d}", "settings": one, "seconds": float(k + 1) if seconds is None else seconds}
        if k in failed:
            lost.append({**entry, "reason": "timed_out", "message": "too long"})
            continue
        right_N = np.where(np.arange(24) % SETTINGS == k, 1 - labels_N, labels_N)
        sure_N = 0.6 + 0.02 * k
        probs.append(np.stack([np.where(right_N == c, sure_N, 1 - sure_N) for c in (0, 1)], axis=1))
        members.append({**entry, "metrics": {"error": 2 / 24 + 0.01 * one["rate"], "nll": 0.5 - 0.01 * k}})
    members.reverse()  # as they might arrive
    probs_MNC = np.stack(probs[::-1]).astype(np.float32)
    spec = {"a": {"kind": "estimator", "rate": {"low": 0.0, "high": 1.0}}}
    info = {"table": name, "config": {"members": spec}, "members": members, "failed": lost}
    arrays = {f"probs_{s}": probs_MNC for s in ("search", "combine", "test")}
    arrays |= {f"labels_{s}": labels_N for s in ("search", "combine", "test")}
    np.savez(folder / f"{name}.npz", info=np.array(json.dumps(info)), **arrays)
    return read(folder / f"{name}.npz")


def test_ranks_share_ties():
    """Rows 1 2 2 and 3 1 2 have ranks 1 2.5 2.5 and 3 1 2: means 2, 1.75, 2.25."""
    assert average_ranks(np.array([[1.0, 2.0, 2.0], [3.0, 1.0, 2.0]])).tolist() == [2.0, 1.75, 2.25]


def test_wilcoxon_by_hand():
    """Five positive differences: of 32 signs only all + is as extreme, twice 1/32. With ranks 1, 2.5 and 2.5 the eight
    sums of positive ranks are 0, 1, 2.5, 2.5, 3.5, 3.5, 5 and 6: two of them are at least 5, so - + + has p = 2 * 2/8.
    Zeros count for nothing."""
    assert wilcoxon(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 32)
    assert wilcoxon(np.array([-1.0, 2.0, 2.0, 0.0])) == pytest.approx(0.5)
    assert wilcoxon(np.array([0.3, -0.3])) == 1.0
    assert wilcoxon(np.zeros(4)) == 1.0
    assert wilcoxon(np.full(6, -0.1)) == pytest.approx(2 / 64)


def test_wilcoxon_is_scipys_without_ties():
    from scipy import stats

    differences = np.random.default_rng(1).normal(0.3, 1.0, 14)
    assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


def test_by_table_counts_tables():
    """Six repetitions: all lower is p = 2/64, better; all higher worse; three of each the same."""
    lower, mixed = -np.ones(6), np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    zeros_TR = np.zeros((4, 6))
    counts = by_table(np.stack([lower, -lower, mixed, lower]), zeros_TR)
    assert counts == Counts(2, 1, 1) and str(counts) == "2/1/1"


def test_holm_by_hand():
    """0.01, 0.04, 0.03 in order are 0.01 * 3, 0.03 * 2, 0.04 * 1; the last is not below the one before it."""
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])


def test_friedman_by_hand():
    """Ranks of three blocks: 1 2 3, 1 2 3, 2 1 3; means 4/3 5/3 3. S = 3 (4/9 + 1/9 + 1) = 14/3, E = 3 * 14 - 36 = 6,
    F = 2 S / (E - S) = 7. Blocks that agree entirely leave nothing to chance."""
    value, p = friedman(np.array([[1.0, 2.0, 3.0], [0.1, 0.2, 0.3], [2.0, 1.0, 3.0]]))
    assert value == pytest.approx(7.0) and p == pytest.approx(0.0494, abs=1e-4)
    assert friedman(np.array([[1.0, 2.0], [1.0, 2.0]])) == (float("inf"), 0.0)
    assert friedman(np.ones((3, 2))) == (0.0, 1.0)


def test_critical_difference_is_demsars():
    """Demšar 2006, section 3.2.4: q is 2.569 for four methods; with 14 data sets the difference is 1.25."""
    assert critical_difference(4, 14) == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.01)


def test_cliques_are_the_largest_groups():
    """Ranks 1, 1.5, 2.2, 4 and difference 1: {1, 1.5} and {1.5, 2.2}; 4 is alone. In a wider one {1, 1.5, 2.2}."""
    ranks = np.array([2.2, 1.0, 4.0, 1.5])
    assert cliques(ranks, 1.0) == [(0, 1), (1, 2)]
    assert cliques(ranks, 1.3) == [(0, 2)]
    assert cliques(ranks, 0.1) == []


def test_relative_error_by_hand():
    """Means 0.2 against 0.1 are 100% more; against no errors at all there is no ratio."""
    found = relative(np.array([[0.1, 0.3], [0.1, 0.1]]), np.array([[0.1, 0.1], [0.0, 0.0]]))
    assert found[0] == pytest.approx(1.0) and np.isnan(found[1])


def test_shares_bound_train_and_search():
    """40,000 rows: 10,000 used, 3,000 train, 1,000 search; 1,000 rows: 600, 200 and twice 100."""
    assert shares(40_000) == pytest.approx({"train": 0.3, "search": 0.1, "combine": 0.3, "test": 0.3})
    assert shares(1_000) == pytest.approx({"train": 0.6, "search": 0.2, "combine": 0.1, "test": 0.1})


def test_table_is_in_the_order_of_drawing(tmp_path):
    table = write_table(tmp_path, failed=(3,))
    assert table.seconds_K.tolist() == [float(k + 1) for k in range(SETTINGS)]
    assert table.metrics[3] is None and table.reasons[3] == "timed_out" and table.place_K[3] == -1
    assert table.search_probs(11)[0] == pytest.approx([0.82, 0.18]) and table.test_probs(0).shape == (48, 2)
    assert table.space.count == SETTINGS


@pytest.mark.parametrize("in_flight", [1, 3])
def test_replay_is_paired_and_repeats_itself(tmp_path, in_flight):
    table, plan = write_table(tmp_path, failed=(2, 5)), Plan(evaluations=10, initial=4, in_flight=in_flight)
    traces = [Replay(table, 1, plan).run(spec) for spec in ("random", {"kind": "bayes", "local": 0}, "random")]
    assert traces[0].asked == traces[2].asked and traces[0].arrived == traces[2].arrived
    assert traces[0].asked[:4] == traces[1].asked[:4] != Replay(table, 2, plan).order[:4]
    for trace in traces:
        assert sorted(trace.arrived) == sorted(trace.asked) and len(set(trace.asked)) == 10
        first = next(place for place, k in enumerate(trace.asked) if k not in (2, 5))
        unknown = [place for place, value in enumerate(trace.least_diversity) if value is None]
        assert unknown == [place for place, k in enumerate(trace.asked) if place <= first or k in (2, 5)]
    assert "performance" in traces[1].surrogates and not traces[0].surrogates


def test_simulated_clock_by_hand(tmp_path):
    """Eight settings of 2 s: one after the other 16 s, four at a time 4 s, three at a time 2 + 2 + 2 s. Unequal ones
    arrive by their time: all twelve at once end with the longest, shortest first."""
    table = write_table(tmp_path, seconds=2.0)
    for in_flight, seconds in ((1, 16.0), (4, 4.0), (3, 6.0)):
        trace = Replay(table, 0, Plan(evaluations=8, in_flight=in_flight)).run("random")
        assert trace.simulated_seconds == seconds and trace.members_seconds == 16.0
    table = write_table(tmp_path)
    trace = Replay(table, 0, Plan(evaluations=SETTINGS, in_flight=SETTINGS)).run("random")
    assert trace.arrived == list(range(SETTINGS)) and trace.simulated_seconds == 12.0


def test_pick_without_diversity_weight_is_probed(tmp_path):
    table = write_table(tmp_path)
    replay = Replay(table, 0, Plan(evaluations=SETTINGS))
    import _search_replay

    assert replay.run({"kind": "divbo", "local": 0}).changed == [0, 0]  # 20 members are not reached
    before, _search_replay.PROBES = _search_replay.PROBES, (6, 8)
    try:
        trace = replay.run({"kind": "divbo", "local": 0})
    finally:
        _search_replay.PROBES = before
    assert trace.changed[1] == 2 and trace.surrogates["diversity"]["uses"] >= 5


def test_selection_is_scored_by_hand(tmp_path):
    """Member k is wrong where n % 12 is k. Members 10 and 11 together follow the surer one, 11: two of 24 rows. Three
    members outvote any one of them: no error."""
    table = write_table(tmp_path)
    row = selected(table, [10, 11, 9], {"kind": "top", "size": 3}, "error", (2,))
    assert row["at"]["2"]["test_error"] == pytest.approx(2 / 24) and row["at"]["2"]["members"] == 2
    assert row["at"]["3"]["test_error"] == 0.0 and row["at"]["3"]["members"] == 3
    single = selected(table, [4], {"kind": "top", "size": 1}, "error", ())["at"]["1"]
    expected = -(22 * np.log(0.68) + 2 * np.log(0.32)) / 24
    assert single["search_nll"] == pytest.approx(expected, rel=1e-5)


def job(folder, out, methods, selectors, repetition=0):
    plan = Plan(evaluations=8, initial=3)
    return Job(str(folder), "toy", repetition, plan, methods, selectors, [], str(out))


def test_done_work_is_not_done_again(tmp_path):
    write_table(tmp_path)
    selectors = {"single": {"kind": "top", "size": 1}}
    first = job(tmp_path, tmp_path / "out", {"random": "random"}, selectors)
    assert first.todo() == ["random"]
    first.carry_out()
    file = tmp_path / "out" / "toy" / "random-0.json"
    before = json.loads(file.read_text())
    assert first.todo() == []
    more = job(tmp_path, tmp_path / "out", {"random": "random"}, selectors | {"greedy25": PAPER_GREEDY})
    assert more.todo() == ["random"]
    more.carry_out()
    after = json.loads(file.read_text())
    assert after["trace"] == before["trace"] and set(after["selected"]) == {"single", "greedy25"}
    other = job(tmp_path, tmp_path / "out", {"random": {"kind": "bayes"}}, selectors)
    with pytest.raises(SystemExit, match="use another --out or method name"):
        other.todo()


def test_option_for_other_tables_is_filled():
    spec = {"kind": "x", "prior": OTHERS, "inner": [{"prior": OTHERS}]}
    assert filled(spec, ["a", "b"]) == {"kind": "x", "prior": ["a", "b"], "inner": [{"prior": ["a", "b"]}]}


def test_report_compares_what_all_have(tmp_path):
    write_table(tmp_path)
    methods = {"random": "random", "bayes": {"kind": "bayes", "local": 0}}
    selectors = {"single": {"kind": "top", "size": 1}, "greedy25": PAPER_GREEDY}
    for repetition in range(2):
        job(tmp_path, tmp_path / "out", methods, selectors, repetition).carry_out()
    (tmp_path / "out" / "toy" / "bayes-1.json").unlink()
    found = reporting.gather({"": tmp_path / "out"}, None, None)
    assert found.repetitions == (0,) and found.left_out == 1 and found.methods == ("random", "bayes")
    chosen = [("random", "greedy25"), ("bayes", "single")]
    sections = [reporting.summary(found, chosen), reporting.duels(found, chosen), reporting.grid(found)]
    tests, faults = reporting.self_tests(found)
    assert faults == []
    writing.write(tmp_path / "r", found, chosen, [*sections, tests], {"random": [0.1, 0.2]}, faults)
    text = (tmp_path / "r.md").read_text()
    assert "| random + greedy25 |" in text and (tmp_path / "r_diversity.png").stat().st_size > 1000
    assert json.loads((tmp_path / "r.json").read_text())["methods"]["random"][0] == "random"
    assert "MIXED" not in writing.heading(found) and not found.mixed()
    file = tmp_path / "out" / "toy" / "bayes-0.json"
    edited = json.loads(file.read_text())
    edited["selected"]["single"]["code"] = "00000000"
    file.write_text(json.dumps(edited))
    mixed = reporting.gather({"": tmp_path / "out"}, None, None)
    assert "MIXED: made by several versions of the code: single." in writing.heading(mixed)
    with pytest.raises(SystemExit, match="no table"):
        reporting.gather({"": tmp_path / "nowhere"}, None, None)


@pytest.mark.parametrize(
    ("spreads", "changed", "fault"),
    [
        ({"performance": 0.0, "performance_std": 0.1, "diversity": 0.1, "diversity_std": 0.1}, [1, 4], "is constant"),
        ({"performance": 0.1, "performance_std": 0.1, "diversity": 0.1, "diversity_std": 0.0}, [1, 4], "no variance"),
        (
            {"performance": 0.1, "performance_std": 0.1, "diversity": 0.1, "diversity_std": 0.1},
            [0, 4],
            "none of 4 picks",
        ),
        ({"performance": 0.1, "performance_std": 0.1}, [1, 4], "diversity surrogate was never asked"),
    ],
)
def test_silent_faults_are_named(spreads, changed, fault):
    surrogates = {name: {"least": value, "mean": value, "uses": 3} for name, value in spreads.items()}
    run = {"spec": "divbo", "trace": {"surrogates": surrogates, "changed": changed}}
    found = reporting.Results(("t",), (0,), ("divbo",), (), "error", {("t", 0, "divbo"): run}, 0)
    _, faults = reporting.self_tests(found)
    assert len(faults) == 1 and fault in faults[0]


def test_ranks_are_drawn(tmp_path):
    critical_differences(tmp_path / "r.png", ["a", "b", "c"], np.array([1.2, 1.9, 2.9]), 0.9, "three")
    assert (tmp_path / "r.png").stat().st_size > 1000


def test_cpu_seconds_are_counted():
    before = spent()
    sum(i * i for i in range(200_000))
    assert spent() > before

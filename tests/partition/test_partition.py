"""Partitioners: the exam that every one of them sits, what each is for, and what a run keeps of them."""

from __future__ import annotations

import json
import re
from collections import Counter

import numpy as np
import pytest

from distens import registry
from distens.errors import ConfigError, DataError, StorageError
from distens.partition.classes import Classes
from distens.partition.column import Column
from distens.partition.dirichlet_classes import DirichletClasses
from distens.partition.dirichlet_clients import DirichletClients
from distens.partition.iid import Iid
from distens.partition.protocol import Partition, digest_labels
from distens.partition.quantity import Quantity
from distens.partition.shards import Shards
from distens.partition.stored import Stored
from distens.records import State
from distens.roles.federated.partition_figure import draw_partition
from distens.storage.store import Store

PARTITIONERS = registry.names("partition")
OWN_CLIENTS = {"column", "stored"}
"""Those that say themselves who the clients are; they draw nothing."""

# Rows, classes, clients: plain; two classes; one client; more clients than classes have rows each; a hundred.
CASES = [(600, 10, 10), (300, 2, 4), (90, 3, 1), (240, 30, 12), (6000, 10, 100)]


def labels(rows: int, classes: int, seed: int = 0):
    """Class 0 has twice as many rows as others; the last one has none where there are more than three."""
    held = max(2, classes - 1) if classes > 3 else classes
    return np.random.default_rng(seed).integers(held + 1, size=rows) % held


def no_column(name: str):
    raise DataError(f"no column {name!r}")


def build(kind: str, labels_N, folder, clients: int | None):
    """A partitioner of that kind, the number of clients it is to be told, and the data's column `site`."""
    if kind == "column":
        return Column("site"), None, lambda _: np.arange(len(labels_N)) % clients
    if kind == "stored":
        found = Iid().divide(labels_N, int(labels_N.max()) + 1, clients, np.random.default_rng(5), no_column)
        Partition.of(found, labels_N, {"kind": "iid"}, 5, "data").save(Store(str(folder)))
        return Stored(str(folder)), None, no_column
    # Few rows for a hundred clients: `least` is 10 by default.
    options = {"alpha": 0.5, "least": 1} if kind in ("dirichlet_classes", "quantity") else {}
    options |= {"per_client": 3} if kind == "classes" and labels_N.max() > 10 else {}
    return registry.make_plugin("partition", {"kind": kind, **options}, "federated.partition"), clients, no_column


def divide(kind: str, labels_N, classes: int, clients: int, folder, seed: int = 1):
    if kind == "classes" and clients == 1:
        return Classes(len(np.unique(labels_N))).divide(labels_N, classes, 1, np.random.default_rng(seed), no_column)
    plugin, told, column = build(kind, labels_N, folder, clients)
    return plugin.divide(labels_N, classes, told, np.random.default_rng(seed), column)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", PARTITIONERS)
def test_every_row_is_one_clients_and_every_client_has_some(kind, case, tmp_path):
    """No rule here leaves a row out, though the protocol would allow it."""
    rows, classes, clients = case
    found = divide(kind, labels(rows, classes), classes, clients, tmp_path)
    assert len(found) == clients
    for name, places in found.items():
        assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name)
        assert places.dtype == np.int64
        assert len(places) >= 1
        assert (np.diff(places) > 0).all()
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(rows))


@pytest.mark.parametrize("kind", PARTITIONERS)
def test_same_seed_same_clients_and_the_labels_stay(kind, tmp_path):
    labels_N = labels(600, 10)
    kept = labels_N.copy()
    labels_N.flags.writeable = False
    first, second = (divide(kind, labels_N, 10, 10, tmp_path) for _ in range(2))
    assert list(first) == list(second)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert np.array_equal(labels_N, kept)


@pytest.mark.parametrize("kind", sorted(set(PARTITIONERS) - OWN_CLIENTS))
def test_other_seeds_other_clients(kind, tmp_path):
    found = [divide(kind, labels(600, 10), 10, 10, tmp_path, seed) for seed in range(5)]
    assert len({tuple(map(tuple, one.values())) for one in found}) == 5


@pytest.mark.parametrize("kind", sorted(set(PARTITIONERS) - OWN_CLIENTS))
def test_clients_are_numbered_with_as_many_digits_as_the_last_needs(kind, tmp_path):
    assert list(divide(kind, labels(90, 3), 3, 1, tmp_path)) == ["c0"]
    assert list(divide(kind, labels(600, 10), 10, 10, tmp_path)) == [f"c{k}" for k in range(10)]
    assert list(divide(kind, labels(6000, 10), 10, 11, tmp_path)) == [f"c{k:02}" for k in range(11)]


@pytest.mark.parametrize("kind", PARTITIONERS)
def test_how_many_clients_is_said_once(kind, tmp_path):
    labels_N = labels(600, 10)
    plugin, told, column = build(kind, labels_N, tmp_path, 10)
    wrong, message = (None, "`clients` is missing") if told else (10, "`clients: 10` has no effect")
    with pytest.raises(DataError, match=rf"^federated\.partition: .*{message}"):
        plugin.divide(labels_N, 10, wrong, np.random.default_rng(0), column)


@pytest.mark.parametrize("kind", sorted(set(PARTITIONERS) - OWN_CLIENTS))
def test_fewer_rows_than_clients_are_refused(kind, tmp_path):
    labels_N = labels(600, 10)
    plugin, _, column = build(kind, labels_N, tmp_path, 10)
    for clients, rows in ((9, 8), (0, 8), (2, 1)):
        with pytest.raises(DataError, match=rf"^federated\.partition: {clients} clients .* {rows} rows"):
            plugin.divide(labels_N[:rows], 10, clients, np.random.default_rng(0), column)


@pytest.mark.parametrize("kind", PARTITIONERS)
def test_options_are_json(kind, tmp_path):
    plugin, _, _ = build(kind, labels(60, 3), tmp_path, 3)
    assert json.loads(json.dumps(registry.resolve_options(plugin)))["kind"] == kind


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "dirichlet_clients", "alpha": 0}, "greater than 0"),
        ({"kind": "dirichlet_classes", "alpha": 1e7}, "less than or equal to 1000000"),
        ({"kind": "dirichlet_classes", "alpha": float("inf")}, "finite number"),
        ({"kind": "quantity", "least": 0}, "greater than or equal to 1"),
        ({"kind": "shards", "per_client": 0}, "greater than or equal to 1"),
        ("column", "needs the option column"),
        ({"kind": "stored", "path": ""}, "at least 1"),
    ],
)
def test_options_out_of_range_are_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        registry.make_plugin("partition", spec, "federated.partition")


def counts(found, labels_N, classes: int):
    return Partition.of(found, labels_N, {}, 0, "").histograms(labels_N, classes)


def test_iid_sizes_by_hand():
    """11 rows among 4 clients: three have 3, one has 2."""
    found = Iid().divide(np.zeros(11, dtype=int), 2, 4, np.random.default_rng(0), no_column)
    assert sorted(len(places) for places in found.values()) == [2, 3, 3, 3]


def test_iid_clients_look_like_the_whole():
    """5000 rows, half of class 0, 5 clients: 500 of 1000 each, standard deviation below sqrt(1000) / 2 = 16."""
    labels_N = np.arange(5000) % 2
    counts_KC = counts(Iid().divide(labels_N, 2, 5, np.random.default_rng(3), no_column), labels_N, 2)
    assert (np.abs(counts_KC - 500) < 80).all()


def test_quantity_differs_in_size_alone():
    """Shares of the classes stay near the whole's (0.5; of 200 rows, standard deviation 0.035) whatever the size."""
    labels_N = np.arange(20_000) % 2
    counts_KC = counts(Quantity(0.5, 200).divide(labels_N, 2, 10, np.random.default_rng(1), no_column), labels_N, 2)
    sizes_K = counts_KC.sum(axis=1)
    assert sizes_K.min() >= 200
    assert sizes_K.max() > 3 * sizes_K.min()
    assert (np.abs(counts_KC[:, 0] / sizes_K - 0.5) < 0.18).all()


@pytest.mark.parametrize("alpha", [1e-9, 1e6])
def test_quantity_at_its_ends_by_hand(alpha):
    """100 rows, 4 clients of at least 5. One share of 1: 85, 5, 5, 5. Equal shares: 25 each."""
    labels_N = np.zeros(100, dtype=int)
    found = Quantity(alpha, 5).divide(labels_N, 1, 4, np.random.default_rng(0), no_column)
    sizes = sorted(len(places) for places in found.values())
    assert sizes == [5, 5, 5, 85] if alpha < 1 else max(np.abs(np.array(sizes) - 25)) <= 1


def test_dirichlet_clients_have_equal_sizes():
    """1003 rows, 10 clients: 100 each, 101 for three of them."""
    labels_N = labels(1003, 10)
    for alpha in (0.05, 1.0):
        found = DirichletClients(alpha).divide(labels_N, 10, 10, np.random.default_rng(2), no_column)
        assert Counter(len(places) for places in found.values()) == {100: 7, 101: 3}


def test_dirichlet_clients_with_log_normal_sizes():
    """Of 20 draws, the largest and the smallest of a log-normal with sigma 1 are e^3.7 = 40 apart on average."""
    labels_N = labels(4000, 10)
    found = DirichletClients(0.3, sigma=1.0).divide(labels_N, 10, 20, np.random.default_rng(2), no_column)
    sizes = [len(places) for places in found.values()]
    assert max(sizes) > 8 * min(sizes)


@pytest.mark.parametrize("rule", [DirichletClients, DirichletClasses])
def test_alpha_from_one_class_to_all_alike(rule):
    """10,000 rows of 10 classes among 10 clients. A large alpha: about 100 of each class. A small one: most of a
    client's rows are of one or two classes."""
    labels_N = np.arange(10_000) % 10

    def largest(alpha: float):
        found = rule(alpha).divide(labels_N, 10, 10, np.random.default_rng(7), no_column)
        counts_KC = counts(found, labels_N, 10)
        return counts_KC, (np.sort(counts_KC, axis=1)[:, -2:].sum(axis=1) / counts_KC.sum(axis=1)).mean()

    alike_KC, of_alike = largest(1e4)
    assert (np.abs(alike_KC - 100) < 50).all()
    assert of_alike < 0.3
    assert largest(0.3)[1] > 0.45
    assert largest(0.05)[1] > 0.65


def test_dirichlet_clients_follow_their_priors_until_a_class_is_used_up():
    """Two clients of 4 rows, 4 rows of class 0 and 4 of class 1; almost all of a prior is one class (alpha 1e-9). If
    both want the same class, what they miss comes from the other one; else each has a class to itself. The rows are
    4 and 4, so client 0 has (a, 4 - a) and client 1 (4 - a, a); both ways must occur."""
    labels_N = np.array([0, 1] * 4)
    seen = set()
    for seed in range(40):
        found = DirichletClients(1e-9).divide(labels_N, 2, 2, np.random.default_rng(seed), no_column)
        (a, b), other = counts(found, labels_N, 2).tolist()
        assert (a + b, other) == (4, [b, a])
        seen.add(a)
    assert {0, 4} < seen


@pytest.mark.parametrize("alpha", [0.4, 1e-9])
def test_dirichlet_clients_deal_as_one_by_one(alpha):
    """Against the definition, written plainly, over 2,000 seeds: the mean of counts and of their squares. Of a count
    up to 8, a mean over 2,000 is off by 4 / sqrt(2000) = 0.09 at most (one standard deviation)."""
    labels_N = np.repeat([0, 1, 2], [9, 5, 2])

    def plain(rng):
        priors_KC, left_C = rng.dirichlet(np.full(3, alpha), 2), np.array([9, 5, 2])
        counts_KC = np.zeros((2, 3), dtype=int)
        for client in rng.permutation([0, 1] * 8):
            mass_C = priors_KC[client] * (left_C > 0)
            mass_C = mass_C if mass_C.sum() > 0 else 1.0 * (left_C > 0)
            label = int(np.searchsorted(np.cumsum(mass_C), rng.random() * mass_C.sum(), side="right"))
            counts_KC[client, label] += 1
            left_C[label] -= 1
        return counts_KC

    expected = np.array([plain(np.random.default_rng([1, seed])) for seed in range(2000)])[:, 0]
    rule = DirichletClients(alpha)
    found = [rule.divide(labels_N, 3, 2, np.random.default_rng([2, seed]), no_column) for seed in range(2000)]
    actual = np.array([np.bincount(labels_N[one["c0"]], minlength=3) for one in found])
    np.testing.assert_allclose(actual.mean(axis=0), expected.mean(axis=0), atol=0.4)
    np.testing.assert_allclose(actual.std(axis=0), expected.std(axis=0), atol=0.25)


def test_dirichlet_classes_have_unequal_sizes_but_no_small_ones():
    labels_N, rule = labels(6000, 10), DirichletClasses(0.1, least=100)
    for seed in range(10):
        sizes_K = [len(v) for v in rule.divide(labels_N, 10, 10, np.random.default_rng(seed), no_column).values()]
        assert min(sizes_K) >= 100
        assert max(sizes_K) > 1.5 * min(sizes_K)


def test_dirichlet_classes_cap_clients_that_have_their_share():
    """Almost all of a class goes to one client. With 2 clients and 4 classes of 5 rows, whoever has two classes has 10
    = N / K and gets no more: 10 rows each, two whole classes."""
    labels_N = np.arange(20) % 4
    for seed in range(10):
        found = DirichletClasses(1e-6, least=1).divide(labels_N, 4, 2, np.random.default_rng(seed), no_column)
        assert sorted(counts(found, labels_N, 4)[0]) == [0, 0, 5, 5]


def test_dirichlet_classes_give_up_and_say_what_to_do():
    """Two classes, each whole to one client: the third has nothing."""
    with pytest.raises(
        DataError, match=r"^federated\.partition: in 2,000 draws .*`least: 10` rows \(at best \d\)\. Take"
    ):
        DirichletClasses(1e-6).divide(np.arange(90) % 2, 2, 3, np.random.default_rng(0), no_column)


def test_shards_by_hand():
    """Sorted by label, rows are 1 3 | 6 0 | 2 7 | 4 5: four shards, two for each of 2 clients."""
    labels_N = np.array([1, 0, 1, 0, 2, 2, 0, 1])
    shards = [{1, 3}, {0, 6}, {2, 7}, {4, 5}]
    for seed in range(5):
        found = Shards(2).divide(labels_N, 3, 2, np.random.default_rng(seed), no_column)
        for places in found.values():
            held = set(places.tolist())
            assert sum(shard <= held for shard in shards) == 2
            assert len(held) == 4


def test_shards_keep_the_order_of_rows_within_a_label():
    """Against Python's own sort, which does: 10 shards of 100 rows."""
    labels_N = labels(1000, 10)
    by_label = sorted(range(1000), key=lambda row: labels_N[row])
    found = Shards(1).divide(labels_N, 10, 10, np.random.default_rng(0), no_column)
    expected = sorted(sorted(by_label[start : start + 100]) for start in range(0, 1000, 100))
    assert sorted(places.tolist() for places in found.values()) == expected


def test_shards_of_uneven_numbers_by_hand():
    """7 rows in 3 shards, all of one label: shard s begins at row ceil(7 s / 3): 0, 3, 5."""
    found = Shards(1).divide(np.zeros(7, dtype=int), 2, 3, np.random.default_rng(0), no_column)
    assert sorted(places.tolist() for places in found.values()) == [[0, 1, 2], [3, 4], [5, 6]]


def test_classes_by_hand():
    """6 clients with 2 of 4 classes are 12 places, 3 holders for each class: 9, 6, 3 and 4 rows are 3 3 3, 2 2 2, 1 1 1
    and 2 1 1."""
    labels_N = np.repeat([0, 1, 2, 3], [9, 6, 3, 4])
    for seed in range(5):
        found = Classes(2).divide(labels_N, 4, 6, np.random.default_rng(seed), no_column)
        counts_KC = counts(found, labels_N, 4)
        assert ((counts_KC > 0).sum(axis=1) == 2).all()
        held = [sorted(column[column > 0].tolist()) for column in counts_KC.T]
        assert held == [[3, 3, 3], [2, 2, 2], [1, 1, 1], [1, 1, 2]]


def test_rows_of_a_class_are_divided_at_random():
    """100 rows of one class, 2 holders: of the first 50, each has about half (standard deviation 2.5)."""
    found = Classes(1).divide(np.zeros(100, dtype=int), 1, 2, np.random.default_rng(0), no_column)
    assert [len(places) for places in found.values()] == [50, 50]
    assert all(10 < (places < 50).sum() < 40 for places in found.values())


def test_a_class_has_no_more_holders_than_rows():
    """Classes with 1, 1 and 2 rows, 2 clients with 2 of them: 4 places for 4 rows; both must hold the third class."""
    labels_N = np.array([0, 1, 2, 2])
    for seed in range(10):
        found = Classes(2).divide(labels_N, 3, 2, np.random.default_rng(seed), no_column)
        assert sorted(counts(found, labels_N, 3).tolist()) == [[0, 1, 1], [1, 0, 1]]


@pytest.mark.parametrize(
    ("per_client", "clients", "message"),
    [
        (1, 2, "hold 2 classes at most, and 3 have rows.*at least 2 per client, or 3 clients"),
        (4, 2, "only 3 classes have rows. Allowed: at most 3"),
        (3, 4, "need 12 holders.*6 in all. Allowed: at most 1 per client"),
    ],
)
def test_classes_that_cannot_be_held_are_refused(per_client, clients, message):
    """Rows: 4, 1, 0 and 1 of the four classes."""
    with pytest.raises(DataError, match=rf"^federated\.partition: .*{message}"):
        Classes(per_client).divide(np.array([0, 0, 0, 0, 1, 3]), 4, clients, np.random.default_rng(0), no_column)


def by_column(values, rows: int | None = None):
    labels_N = np.zeros(len(values) if rows is None else rows, dtype=int)
    found = Column("site").divide(labels_N, 2, None, np.random.default_rng(0), lambda name: {"site": values}[name])
    return {name: places.tolist() for name, places in found.items()}


def test_column_by_hand():
    """Numbers in order of numbers; text in order of text, made safe for files."""
    assert by_column(np.array([10, 9, 10, 2])) == {"2": [3], "9": [1], "10": [0, 2]}
    assert by_column(np.array(["St Mary", "../etc", "a.b", "St Mary"], dtype=object)) == {
        "_._etc": [1],
        "St_Mary": [0, 3],
        "a.b": [2],
    }
    assert by_column(np.array([1.0, 2.0, 1.0])) == {"1": [0, 2], "2": [1]}


def test_columns_that_name_nobody_are_refused():
    with pytest.raises(DataError, match=r"^federated\.partition\.column 'site': 3 of 4 rows have no value"):
        by_column(np.array(["a", None, " ", float("nan")], dtype=object))
    with pytest.raises(DataError, match="'a b' and 'a_b' would both be the client 'a_b'"):
        by_column(np.array(["a b", "c", "a_b"], dtype=object))
    with pytest.raises(DataError, match="70 characters; a client's name has at most 64"):
        by_column(np.array(["x" * 70, "c"], dtype=object))
    with pytest.raises(DataError, match="no column 'site'"):
        Column("site").divide(np.zeros(3, dtype=int), 2, None, np.random.default_rng(0), no_column)


def a_partition(labels_N, clients: int = 7):
    rule = DirichletClients(0.2)
    found = rule.divide(labels_N, 10, clients, np.random.default_rng(11), no_column)
    return Partition.of(found, labels_N, registry.resolve_options(rule), 11, "0f" * 32)


def test_a_partition_is_read_back_as_it_was(tmp_path):
    labels_N = labels(500, 10)
    kept = a_partition(labels_N)
    address = kept.save(Store(str(tmp_path)))
    assert address.path == "partition.safetensors"
    read = Partition.read(Store(str(tmp_path)))
    assert list(read.rows) == list(kept.rows)
    assert all(np.array_equal(read.rows[name], places) for name, places in kept.rows.items())
    assert all(places.dtype == np.int64 for places in read.rows.values())
    assert read.rule == {"kind": "dirichlet_clients", "alpha": 0.2, "sigma": 0.0}
    assert (read.seed, read.fingerprint, read.total, read.hash) == (11, "0f" * 32, 500, kept.hash)
    found = Stored(str(tmp_path)).divide(labels_N, 10, None, np.random.default_rng(0), no_column)
    again = Partition.of(found, labels_N, registry.resolve_options(Stored(str(tmp_path))), 3, "0f" * 32)
    assert again.hash == kept.hash


def test_the_hash_sees_names_rows_and_data():
    labels_N = np.zeros(4, dtype=int)

    def hashed(rows, fingerprint: str = "x"):
        return Partition.of({k: np.array(v) for k, v in rows.items()}, labels_N, {}, 0, fingerprint).hash

    base = hashed({"a": [0, 1], "b": [2, 3]})
    others = [
        hashed({"a": [0, 1], "c": [2, 3]}),
        hashed({"a": [0, 2], "b": [1, 3]}),
        hashed({"a": [0, 1, 2], "b": [3]}),
        hashed({"b": [0, 1], "a": [2, 3]}),
        hashed({"a": [0, 1], "b": [2, 3]}, "y"),
    ]
    assert len({base, *others}) == 6
    assert base == hashed({"a": [0, 1], "b": [2, 3]})
    assert re.fullmatch("[0-9a-f]{64}", base)


def test_histograms_by_hand():
    labels_N = np.array([0, 2, 2, 1])
    found = Partition.of({"a": np.array([0, 2]), "b": np.array([1, 3])}, labels_N, {}, 0, "")
    assert found.histograms(labels_N, 4).tolist() == [[1, 0, 1, 0], [0, 1, 1, 0]]


def test_a_partition_that_was_changed_is_refused(tmp_path):
    state = a_partition(labels(500, 10)).to_state()
    moved = state.arrays["rows"].copy()
    moved[3] += 1
    offsets = state.arrays["offsets"].copy()
    offsets[1] -= 1
    meta = dict(state.meta)
    del meta["seed"]
    for wrong in (
        State({**state.arrays, "rows": moved}, state.meta),
        State({**state.arrays, "offsets": offsets}, state.meta),
        State(state.arrays, {**state.meta, "fingerprint": "other"}),
        State(state.arrays, {**state.meta, "names": ["x"]}),
        State(state.arrays, meta),
        State({}, {}),
    ):
        with pytest.raises(StorageError, match="a partition is damaged"):
            Partition.from_state(wrong)
        Store(str(tmp_path)).write_state("partition.safetensors", wrong)
        with pytest.raises(DataError, match=r"^federated\.partition\.path .*a partition is damaged"):
            Stored(str(tmp_path)).divide(labels(500, 10), 10, None, np.random.default_rng(0), no_column)


def test_stored_is_for_the_same_rows_only(tmp_path):
    labels_N = labels(500, 10)
    a_partition(labels_N).save(Store(str(tmp_path / "run")))
    stored, rng = Stored(str(tmp_path / "run")), np.random.default_rng(0)
    with pytest.raises(DataError, match=r"divides the 500 rows of another train split; this one has 499"):
        stored.divide(labels_N[:-1], 10, None, rng, no_column)
    with pytest.raises(DataError, match=r"the labels differ: the number of rows is the same \(500\)"):
        stored.divide(labels_N[::-1].copy(), 10, None, rng, no_column)
    with pytest.raises(DataError, match=r"^federated\.partition\.path .*cannot read partition.safetensors"):
        Stored(str(tmp_path / "none")).divide(labels_N, 10, None, rng, no_column)
    assert digest_labels(labels_N) == digest_labels(labels_N.astype(np.int32))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": [0, 1], "b": []}, "gave client 'b' no rows"),
        ({"a": [1, 0], "b": [2]}, "client 'a' rows that are not ascending places from 0 to 3"),
        ({"a": [0, 1], "b": [4]}, "client 'b' rows that are not ascending places from 0 to 3"),
        ({"a": [0, 1], "b": [1, 2]}, "client 'b' 1 rows that another client has too"),
    ],
)
def test_rules_that_break_the_contract_are_named(rows, message):
    with pytest.raises(DataError, match=rf"^federated\.partition: 'mine' .*{message}"):
        Partition.of(
            {k: np.array(v, dtype=int) for k, v in rows.items()}, np.zeros(4, dtype=int), {"kind": "mine"}, 0, ""
        )


@pytest.mark.parametrize("shape", [(1, 1), (10, 10), (100, 10), (40, 120)])
def test_figures_of_all_sizes_are_drawn_and_alike(shape, tmp_path):
    import matplotlib.image

    counts_KC = np.random.default_rng(0).integers(0, 2000, size=shape)
    names = [f"a hospital with a very long name {k}" for k in range(shape[0])]
    for file in ("a.png", "b.png"):
        draw_partition(counts_KC, names, [f"class {c}" for c in range(shape[1])], tmp_path / "figures" / file)
    first, second = ((tmp_path / "figures" / file).read_bytes() for file in ("a.png", "b.png"))
    assert first == second
    height, width, _ = matplotlib.image.imread(tmp_path / "figures" / "a.png").shape
    assert 200 < height < 1500
    assert 400 < width < 1500

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from distens.data.dataset import Examples
from distens.errors import Diverged, Refused
from distens.members.module import Module
from distens.models.mlp import Mlp
from distens.objectives.cross_entropy import CrossEntropy
from distens.storage.checkpoint import Checkpoint
from distens.storage.store import Store
from distens.training import lightning
from distens.training._lightning_parts import Order, Plain
from distens.training.checkpoint import decode_tree, encode_tree
from distens.training.context import Context
from distens.training.loop import Recipe, fit_network, order
from distens.training.network import initialise, to_arrays

LOSS = CrossEntropy().loss


def recipe(**changes) -> Recipe:
    options = {
        "optimizer": "sgd",
        "learning_rate": 0.2,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "schedule": "constant",
        "epochs": 1,
        "batch_size": 8,
    }
    return Recipe(**{**options, **changes})


def examples(rows: int = 60, soft: bool = False) -> Examples:
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 3, rows)
    inputs = (rng.normal(size=(3, 6))[labels_N] + rng.normal(size=(rows, 6))).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[labels_N] * 0.8 + np.float32(0.2 / 3) if soft else labels_N
    inputs.flags.writeable = targets.flags.writeable = False
    return Examples(inputs, targets, 3)


def network(seed: int = 1) -> nn.Module:
    return initialise(lambda: Mlp(hidden=(16,), dropout=0.3).build((6,), 3), seed)


def each_epoch(store: Store) -> Checkpoint:
    return Checkpoint(store, "m", every_seconds=0)


class Killed(Checkpoint):
    """Saves each epoch and is killed right after a save."""

    def __init__(self, store: Store, saves: int = 2) -> None:
        super().__init__(store, "m", every_seconds=0)
        self._left = saves

    def save(self, state) -> None:
        super().save(state)
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


def zeros(inputs: int = 2, classes: int = 2) -> nn.Linear:
    linear = nn.Linear(inputs, classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def test_one_step_by_hand():
    """Zero weights, one row x = (1, 0) of class 0: p = (1/2, 1/2), the loss is ln 2, the gradient of the weights
    (p - y) x = ((-1/2, 0), (1/2, 0)) and of the biases (-1/2, 1/2). A step of 0.2: weights ((0.1, 0), (-0.1, 0))."""
    linear = zeros()
    rows = Examples(np.array([[1.0, 0.0]], dtype=np.float32), np.array([0]), 2)
    metrics = fit_network(linear, rows, Context(0), recipe(), LOSS)
    np.testing.assert_allclose(linear.weight.detach(), [[0.1, 0], [-0.1, 0]], atol=1e-7)
    np.testing.assert_allclose(linear.bias.detach(), [0.1, -0.1], atol=1e-7)
    assert metrics["train_loss"] == pytest.approx(math.log(2))
    assert (metrics["steps"], metrics["epochs"], metrics["parameters"]) == (1, 1, 6)


def test_cosine_schedule_by_hand():
    """Two steps in all and a gradient of 1 in each: learning rates 0.2 (1 + cos 0) / 2 = 0.2 and
    0.2 (1 + cos pi/2) / 2 = 0.1, so the weight ends at -0.3; constant, at -0.4."""
    rows = Examples(np.array([[1.0, 0.0]], dtype=np.float32), np.array([0]), 2)
    for schedule, expected in (("cosine", -0.3), ("constant", -0.4)):
        linear = zeros()
        fit_network(
            linear, rows, Context(0), recipe(epochs=2, schedule=schedule), lambda logits, _: logits[:, 0].mean()
        )
        assert linear.weight[0, 0].item() == pytest.approx(expected, abs=1e-6)


def test_an_epoch_takes_every_row_once_in_an_order_of_its_own():
    epochs = [order(10, seed=5, epoch=e).tolist() for e in (0, 1, 0)]
    assert sorted(epochs[0]) == list(range(10))
    assert epochs[0] == epochs[2] != epochs[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path, optimizer, soft):
    store, data = Store(str(tmp_path)), examples(soft=soft)
    how = recipe(optimizer=optimizer, learning_rate=0.01, momentum=0.9, schedule="cosine", epochs=5)
    whole, killed, resumed = network(), network(), network()
    through = fit_network(whole, data, Context(7), how, LOSS)
    with pytest.raises(KeyboardInterrupt):
        fit_network(killed, data, Context(7, Killed(store)), how, LOSS)
    checkpoint = Checkpoint(store, "m").load()
    assert checkpoint is not None
    assert checkpoint.meta["epoch"] == 2
    metrics = fit_network(resumed, data, Context(7, each_epoch(store)), how, LOSS)
    assert {**metrics, "seconds": 0} == {**through, "seconds": 0}
    assert metrics["seconds"] > checkpoint.meta["seconds"] > 0
    for name, array in to_arrays(whole).items():
        np.testing.assert_array_equal(array, to_arrays(resumed)[name])
        assert not np.array_equal(array, to_arrays(killed)[name])


def test_a_checkpoint_of_another_training_is_not_gone_on_from(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        fit_network(network(), examples(), Context(7, Killed(store)), recipe(epochs=5), LOSS)
    fresh, other = network(), network()
    fit_network(fresh, examples(), Context(8), recipe(epochs=5), LOSS)
    fit_network(other, examples(), Context(8, Checkpoint(store, "m")), recipe(epochs=5), LOSS)
    assert all(np.array_equal(a, to_arrays(other)[name]) for name, a in to_arrays(fresh).items())


def test_a_short_training_saves_nothing(tmp_path):
    store = Store(str(tmp_path))
    fit_network(network(), examples(), Context(7, Checkpoint(store, "m")), recipe(epochs=3), LOSS)
    assert store.names("members/m") == []
    fit_network(network(), examples(), Context(7, each_epoch(store)), recipe(epochs=3), LOSS)
    assert store.names("members/m") == ["checkpoint.safetensors"]


def test_training_leaves_global_chance_alone():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    fit_network(network(), examples(), Context(7), recipe(epochs=2), LOSS)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_not_finite_is_named():
    with pytest.raises(Diverged, match=r"loss was .* in epoch \d of 20, with optimizer sgd, learning rate 1e\+12"):
        fit_network(network(), examples(), Context(0), recipe(learning_rate=1e12, epochs=20), LOSS)


def test_a_tree_of_tensors_survives_storage(tmp_path):
    store = Store(str(tmp_path))
    tree = {
        0: {"step": torch.tensor(3.0), "moment": torch.arange(6.0).reshape(2, 3)},
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "rates": [0.1, float("nan"), float("inf")],
        "pair": (1, None, True),
        "count": np.int64(5),
    }
    store.write_state("c", encode_tree(tree, {"epoch": 2}))
    state = store.read_state("c")
    found = decode_tree(state)
    assert state.meta["epoch"] == 2
    assert found[0]["step"].shape == ()
    assert torch.equal(found[0]["moment"], tree[0]["moment"])
    assert found["half"].dtype is torch.bfloat16
    assert torch.equal(found["half"], tree["half"])
    assert found["rates"][0] == 0.1
    assert math.isnan(found["rates"][1])
    assert found["rates"][2] == math.inf
    assert (found["pair"], found["count"]) == ((1, None, True), 5)


def test_what_is_no_plain_data_is_refused():
    with pytest.raises(Refused, match=r"checkpoint.inner.0: .*found torch.nn.modules.linear.Linear, allowed"):
        encode_tree({"inner": [nn.Linear(1, 1)]}, {})


@pytest.mark.parametrize("rows", [16, 17, 19, 20])
def test_processes_share_each_batch_evenly(rows):
    """Batches of 8 for 2 processes: 16 rows are two batches. A rest of one row or of three is too little for two rows
    each, so it is left out; a rest of four is a third batch."""
    ranks = [Order(rows, 8, seed=3, rank=rank, processes=2) for rank in (0, 1)]
    assert [len(order) for order in ranks] == [3 if rows == 20 else 2] * 2
    for first, second in zip(*ranks, strict=True):
        assert len(first) == len(second)
        assert not set(first.tolist()) & set(second.tolist())


def test_one_process_leaves_out_a_last_batch_of_one_row():
    sizes = {rows: [len(b) for b in Order(rows, 4, 0, 0, 1)] for rows in (1, 8, 9, 10)}
    assert sizes == {1: [1], 8: [4, 4], 9: [4, 4], 10: [4, 4, 2]}


def test_lightning_does_not_keep_what_is_no_plain_data():
    class Holder(Plain):
        def on_save_checkpoint(self, checkpoint) -> None:
            checkpoint["mine"] = object()

    with pytest.raises(Refused, match=r"checkpoint.mine: .*builtins.object"):
        lightning.fit_module(
            Holder(zeros(6, 3), LOSS, 0.1),
            examples(),
            Context(0, Checkpoint(every_seconds=0)),
            lightning.TrainerOptions(3, 16),
            LOSS,
        )


@pytest.mark.usefixtures("ray_here")
def test_two_processes_train_one_network_and_resume(tmp_path):
    """The second fit finds the first one's checkpoint of its last but one epoch, and must end at the same weights."""
    store, data = Store(str(tmp_path)), examples(301)
    first, again = (
        Module("user_module:Scheduled", epochs=4, batch_size=50, processes=2, options={"learning_rate": 0.05})
        for _ in range(2)
    )
    metrics = first.fit(data, Context(1, each_epoch(store)))
    assert (metrics["steps"], metrics["epochs"]) == (24, 4)
    assert store.names("members/m") == ["checkpoint.safetensors"]
    probs_NC = first.predict(data.inputs)
    assert (probs_NC.argmax(axis=1) == data.targets).mean() > 0.7
    again.fit(data, Context(1, each_epoch(store)))
    np.testing.assert_array_equal(again.predict(data.inputs), probs_NC)
    with pytest.raises(Refused, match=r"needs 5 CPU, the cluster has 2"):
        Module("user_module:Scheduled", batch_size=50, processes=5).fit(data, Context(1))


@pytest.mark.usefixtures("ray_here")
def test_a_group_for_which_others_leave_no_room_is_refused_in_the_end():
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    from distens.training.group import _wait_for_room

    @ray.remote(num_cpus=1)
    class Holder:
        def ready(self):
            return True

    holder = Holder.remote()
    ray.get(holder.ready.remote())
    reservation = placement_group([{"CPU": 1.0}] * 2)
    try:
        with pytest.raises(Refused, match=r"needs 2 CPU, and others occupied too much for 1 s; .*concurrency"):
            _wait_for_room(reservation, {"CPU": 1.0}, 2, wait_seconds=1)
    finally:
        remove_placement_group(reservation)
        ray.kill(holder)

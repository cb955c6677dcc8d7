"""Networks of users: what is odd in them is said by name, before or instead of a wrong result."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from distens import registry
from distens.data.dataset import Examples
from distens.errors import ConfigError, Refused
from distens.members import module
from distens.members._rows import hold_back_rows, select_examples
from distens.members.module import Module
from distens.storage.checkpoint import Checkpoint
from distens.storage.store import Store
from distens.training.context import Context
from distens.training.outputs import PROBABILITIES_METRIC, are_probabilities


def problem(rows: int = 120, classes: int = 3) -> Examples:
    rng = np.random.default_rng(1)
    labels_N = rng.integers(0, classes, rows)
    centres = np.random.default_rng(0).normal(size=(classes, 4)) * 2
    inputs = (centres[labels_N] + rng.normal(size=(rows, 4))).astype(np.float32)
    inputs.flags.writeable = labels_N.flags.writeable = False
    return Examples(inputs, labels_N, classes)


def member(name: str, **changes) -> Module:
    settings = {"kind": "module", "path": f"odd_modules:{name}", "epochs": 3, "batch_size": 30, **changes}
    return registry.build_member({"family": "mine", **settings})


@pytest.fixture(autouse=True)
def _first_in_its_process(monkeypatch):
    monkeypatch.setattr(module, "_INSPECTED", set())
    monkeypatch.setattr(module, "_WARNED", set())


def restored(trained: Module, name: str, store: Store) -> Module:
    back = member(name)
    back.load(store.read_state("s", store.write_state("s", trained.state())))
    return back


# Outputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Softmax", "HalfSoftmax"])
def test_a_softmax_is_named_once(name):
    with pytest.warns(UserWarning, match="logits") as caught:
        found = [member(name).fit(problem(), Context(seed)) for seed in (1, 2)]
    said = [str(one.message) for one in caught if "logits" in str(one.message)]
    assert len(said) == 1
    assert said[0].startswith(f"odd_modules:{name}: forward returns probabilities")
    assert [one[PROBABILITIES_METRIC] for one in found] == [1.0, 1.0]


@pytest.mark.parametrize("name", ["Base", "LogSoftmax", "Sigmoid", "Light"])
def test_other_outputs_are_no_softmax(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert PROBABILITIES_METRIC not in member(name).fit(problem(), Context(1))


def test_one_row_that_sums_to_one_is_no_softmax():
    assert are_probabilities(np.array([[0.2, 0.8], [1.0, 0.0]]))
    assert not are_probabilities(np.array([[0.2, 0.8]]))
    assert not are_probabilities(np.array([[0.2, 0.8], [0.5, 0.6]]))
    assert not are_probabilities(np.array([[0.2, 0.8], [1.5, -0.5]]))


@pytest.mark.parametrize("name", ["Dict", "Tuple", "Named", "Model", "Object"])
def test_logits_among_other_outputs_are_learned_and_predicted(name):
    """As if they were returned alone, to the bit."""
    trained, plain = member(name), member("Base")
    metrics = [one.fit(problem(), Context(1)) for one in (trained, plain)]
    assert metrics[0]["train_loss"] == metrics[1]["train_loss"]
    np.testing.assert_array_equal(trained.predict(problem().inputs), plain.predict(problem().inputs))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TwoOfOneShape", r"found tuple with entry 0 \(1, 3\), entry 1 \(1, 3\); a torch.Tensor is wanted"),
        ("WideLogits", r"found dict with 'logits' \(1, 4\), 'other' \(1, 3\); a torch.Tensor is wanted"),
        ("Nothing", r"found NoneType; a torch.Tensor is wanted"),
        ("Complex", r"found \(1, 3\) of complex64"),
    ],
)
def test_outputs_that_are_no_tensor_of_logits_are_described(name, words):
    with pytest.raises(Refused, match=rf"^{name}: forward must return logits of shape \(1 rows, 3 classes\), {words}"):
        member(name).fit(problem(), Context(1))


def test_an_array_is_described():
    with pytest.raises(Refused, match=r"Array: forward .*numpy|Array: forward must .*found numpy.ndarray \(1, 3\)"):
        member("Array").fit(problem(), Context(1))


def test_a_forward_that_fails_is_refused_in_its_own_words():
    with pytest.raises(Refused, match=r"Failing: forward failed on inputs of shape \(1, 4\), .*KeyError: 'heads'"):
        member("Failing").fit(problem(), Context(1))


# State ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ExtraState", "_extra_state is an object of type dict"),
        ("Sparse", "graph is a tensor of float32, sparse_coo"),
        ("Quantised", "table is a tensor of qint8"),
        ("Float8", "table is a tensor of float8_e4m3fn"),
        ("Forgetful", "predicts something else.*its buffers noise are not persistent"),
        ("Attribute", "predicts something else.*values that are not in its state_dict"),
        ("Hidden", "predicts something else.*values that are not in its state_dict"),
        ("Half", "Half: forward failed on inputs of shape .*float32"),
    ],
)
def test_a_state_that_cannot_be_kept_is_refused_before_training(name, words):
    started = time.perf_counter()
    with pytest.raises(Refused, match=words):
        member(name, epochs=100_000).fit(problem(), Context(1))
    assert time.perf_counter() - started < 5


def test_a_value_that_training_changes_beside_the_state_is_refused_after_the_first_training():
    with pytest.raises(Refused, match="Learning: loaded from its state, it predicts something else"):
        member("Learning").fit(problem(), Context(1))


KEPT = ["Base", "TensorExtraState", "Lazy", "Parametrised", "Shared", "Bfloat16", "ComplexWeights", "Means"]
KEPT += ["Double", "InfiniteAtFirst", "Frozen", "LazyLight", "OwnOptimizer"]
KEPT += ["Partial", "MadeLate", "MadeInSetup", "UsesTrainer", "Averaged", "AveragedStatistics", "Validated"]


@pytest.mark.parametrize("name", KEPT)
def test_a_state_that_can_be_kept_is_kept(name, tmp_path):
    data = problem()
    trained = member(name)
    metrics = trained.fit(data, Context(1))
    assert metrics["parameters"] >= 0
    back = restored(trained, name, Store(str(tmp_path)))
    np.testing.assert_array_equal(back.predict(data.inputs), trained.predict(data.inputs))
    again = member(name)
    again.fit(data, Context(1))
    np.testing.assert_array_equal(again.predict(data.inputs), trained.predict(data.inputs))


@pytest.mark.parametrize("name", ["Stochastic", "NoisyElsewhere"])
def test_predictions_by_chance_are_no_fault_of_the_state(name):
    assert member(name).fit(problem(), Context(1))["epochs"] == 3


def test_inspections_leave_chance_and_the_training_alone(monkeypatch):
    data = problem()
    torch.manual_seed(4)
    before = torch.get_rng_state()
    first, second = member("Base"), member("Base")
    first.fit(data, Context(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(module._INSPECTED) == 1
    second.fit(data, Context(1))  # is not inspected
    np.testing.assert_array_equal(first.predict(data.inputs), second.predict(data.inputs))


# Figures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "has_loss"),
    [
        ("Light", 12, True),
        ("LossInDict", 12, True),
        ("EverySecond", 6, True),
        ("Manual", 12, False),
        ("ManualTwo", 24, False),
        ("ManualWithLoss", 12, True),
        ("Averaged", 12, True),
        ("OwnOptimizer", 0, False),
        ("LossOnlyAtFirst", 4, False),
        ("SkipsRest", 3, True),
        ("Frozen", 12, True),
        ("Validated", 12, True),  # 12 rows of 120 are held back, 108 are four batches
    ],
)
def test_figures_are_those_that_were_measured(name, steps, has_loss):
    metrics = member(name).fit(problem(), Context(1))
    assert (metrics["epochs"], metrics["steps"]) == (3, steps)
    assert ("train_loss" in metrics) == has_loss
    assert all(np.isfinite(value) for value in metrics.values())


def test_an_epoch_for_statistics_alone_makes_no_step_and_its_loss_is_not_divided():
    metrics = member("AveragedStatistics").fit(problem(), Context(1))
    plain = member("Light").fit(problem(), Context(1))
    assert (metrics["epochs"], metrics["steps"]) == (4, 12)
    assert metrics["train_loss"] > plain["train_loss"] / 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Never", "Never: no weight changed in 1 epoch; it made no step: .* return the loss, and returned none"),
        ("NeverWithStatistics", "no weight changed in 1 epoch; it made no step"),
        ("StepsLater", "no weight changed in 1 epoch; it made no step"),
        ("NoOptimizer", "NoOptimizer: no weight changed in 1 epoch; it made no step: configure_optimizers must return"),
        ("AllFrozen", "no weight changed in 3 epochs; its 12 steps had no effect"),
        ("Weightless", "Weightless: has no weights to learn"),
        ("ManualFloat", "ManualFloat: Lightning does not take the module: .*float"),
        ("ManualNever", "no weight changed in 3 epochs; it made no step: .* call the step of an optimizer"),
        ("TwoOptimizers", "TwoOptimizers: Lightning does not take the module: .*multiple optimizers"),
        ("Unmonitored", "Unmonitored: Lightning does not take the module: .*val_loss"),
        ("StopsUnmonitored", "StopsUnmonitored: Lightning does not take the module: .*val_loss"),
        ("MadeByTrainer", "forward failed .*hooks setup and configure_model failed without a trainer"),
    ],
)
def test_a_module_that_cannot_be_trained_is_refused(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match=words):
        member(name).fit(problem(), Context(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "batches"), [("Never", 4), ("NoOptimizer", 4), ("ManualNever", 32), ("ManualGathering", 32)]
)
def test_a_module_that_never_steps_is_not_paid_for_to_its_last_epoch(name, batches):
    trained = member(name, epochs=1000, options={"gathered": 1000} if name == "ManualGathering" else {})
    with pytest.raises(Refused, match=f"{name}: no weight changed in {batches // 4} epoch.*; it made no step"):
        trained.fit(problem(), Context(1))
    network: Any = trained._network
    assert network.trainer.fit_loop.total_batch_idx + 1 == batches


def test_gradients_of_several_epochs_may_be_gathered_for_a_step():
    assert member("ManualGathering", epochs=10).fit(problem(), Context(1))["steps"] == 2


def test_weights_that_change_between_epochs_are_a_training():
    assert member("LearnsBetweenEpochs").fit(problem(), Context(1))["steps"] == 0


def test_a_rate_of_zero_is_refused():
    with pytest.raises(Refused, match="no weight changed in 3 epochs; its 12 steps had no effect: is the learn"):
        member("Light", options={"rate": 0.0}).fit(problem(), Context(1))


class Interrupted(Checkpoint):
    """Saves each epoch, and is killed right after one of the saves."""

    left = 2

    def save(self, state) -> None:
        super().save(state)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


RESUMED = ["Light", "EverySecond", "Manual", "ManualTwo", "Validated", "Stopping", "Averaged", "AveragedStatistics"]
RESUMED += ["MadeLate", "MadeInSetup", "Lazy", "Falling", "Partial"]


@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_module_ends_with_the_same_figures(name, tmp_path):
    data, store = problem(), Store(str(tmp_path))
    whole, resumed = member(name, epochs=6), member(name, epochs=6)
    through = whole.fit(data, Context(1))
    killed = Interrupted(store, "m", every_seconds=0)
    killed.left = 1 if name == "Stopping" else 3
    with pytest.raises(KeyboardInterrupt):
        member(name, epochs=6).fit(data, Context(1, killed))
    metrics = resumed.fit(data, Context(1, Checkpoint(store, "m")))
    assert {**metrics, "seconds": 0} == {**through, "seconds": 0}
    np.testing.assert_array_equal(resumed.predict(data.inputs), whole.predict(data.inputs))


@pytest.mark.parametrize("name", ["Averaged", "AveragedStatistics"])
def test_a_module_killed_before_its_weights_are_averaged_still_averages_them(name, tmp_path):
    data, store = problem(), Store(str(tmp_path))
    whole, resumed = member(name, epochs=4), member(name, epochs=4)
    whole.fit(data, Context(1))
    killed = Interrupted(store, "m", every_seconds=0)
    killed.left = 4 if name == "AveragedStatistics" else 3
    with pytest.raises(KeyboardInterrupt):
        member(name, epochs=4).fit(data, Context(1, killed))
    resumed.fit(data, Context(1, Checkpoint(store, "m")))
    np.testing.assert_array_equal(resumed.predict(data.inputs), whole.predict(data.inputs))


# Validation -----------------------------------------------------------------------------------------------------------


def test_a_tenth_is_held_back_with_each_class_s_share():
    labels_N = np.repeat([0, 1, 2], [600, 300, 10])
    data = Examples(np.arange(910, dtype=np.float32)[:, None], labels_N, 3)
    learned, validation = hold_back_rows(data, seed=1)
    assert np.bincount(validation.targets).tolist() == [60, 30, 1]
    rows = np.concatenate([learned.inputs, validation.inputs])[:, 0]
    assert sorted(rows.tolist()) == list(range(910))
    np.testing.assert_array_equal(hold_back_rows(data, seed=1)[1].inputs, validation.inputs)
    assert not np.array_equal(hold_back_rows(data, seed=2)[1].inputs, validation.inputs)


@pytest.mark.parametrize("rows", [2, 3, 9, 10, 19])
def test_at_least_one_row_is_held_back_and_one_is_left(rows):
    data = Examples(np.zeros((rows, 1), dtype=np.float32), np.zeros(rows, dtype=np.int64), 2)
    learned, validation = hold_back_rows(data, seed=1)
    assert len(learned.inputs) >= 1
    assert len(validation.inputs) >= 1


def test_one_row_is_too_few_to_hold_back():
    with pytest.raises(Refused, match="1 row is too few"):
        hold_back_rows(problem(1), seed=1)


def test_a_validation_step_gets_the_rows_that_are_held_back():
    trained = member("Validated")
    trained.fit(problem(400), Context(1))
    network: Any = trained._network
    assert network.rows_seen == [30, 10] * 3


def test_early_stopping_is_counted_as_it_happened(tmp_path):
    """No epoch improves by ten, so the second without improvement, the third epoch at most, is the last."""
    metrics = member("Stopping", epochs=50).fit(problem(), Context(1))
    assert (metrics["epochs"], metrics["steps"]) == (2, 8)


@pytest.mark.parametrize(("name", "epochs", "steps"), [("StopsByItself", 3, 10), ("StopsOnTraining", 3, 12)])
def test_other_ways_to_stop_are_counted_too(name, epochs, steps):
    metrics = member(name, epochs=50).fit(problem(), Context(1))
    assert (metrics["epochs"], metrics["steps"]) == (epochs, steps)


def test_a_bootstrap_is_drawn_from_the_rows_that_are_not_held_back():
    data = problem(400)
    learned, validation = hold_back_rows(data, seed=1)
    drawn = select_examples(learned, "bootstrap", seed=1)
    assert len(drawn.inputs) == 360
    assert not {row.tobytes() for row in drawn.inputs} & {row.tobytes() for row in validation.inputs}
    trained = member("Validated", rows="bootstrap")
    assert trained.fit(data, Context(1))["steps"] == 36


def test_a_teacher_s_probabilities_are_held_back_as_well():
    data = problem()
    soft = replace(data, targets=np.eye(3, dtype=np.float32)[np.asarray(data.targets, dtype=np.int64)])
    assert member("Validated").fit(soft, Context(1))["steps"] == 12


@pytest.mark.usefixtures("ray_here")
def test_several_processes_do_the_same_and_refuse_the_same(tmp_path):
    """Validation, a learning rate that follows it, layers that are made late and an early end, in two processes."""
    data = problem()
    for name, epochs in (("MadeLateAndStops", 2), ("Validated", 3)):
        trained = member(name, processes=2)
        metrics = trained.fit(data, Context(1))
        assert (metrics["epochs"], metrics["steps"]) == (epochs, 4 * epochs)
        back = restored(trained, name, Store(str(tmp_path / name)))
        np.testing.assert_array_equal(back.predict(data.inputs), trained.predict(data.inputs))
    for name, words in (("EverySecond", "Lightning does not take the module"), ("ManualNever", "no weight changed")):
        with pytest.raises(Refused, match=words):
            member(name, processes=2).fit(data, Context(1))


def test_a_module_that_stopped_itself_stays_stopped_at_the_next_rung(tmp_path):
    data, store = problem(), Store(str(tmp_path))
    whole, in_rungs = member("Stopping", epochs=9), member("Stopping", epochs=9)
    through = whole.fit(data, Context(1))
    found = [in_rungs.fit(data, Context(1, Checkpoint(store, "m"), budget=budget)) for budget in (1, 3, 9)]
    assert [one["epochs"] for one in found] == [1, 2, 2]
    assert [one["new_epochs"] for one in found] == [1, 1, 0]
    assert found[-1]["steps"] == through["steps"]
    np.testing.assert_array_equal(in_rungs.predict(data.inputs), whole.predict(data.inputs))


@pytest.mark.parametrize("name", ["Light", "Averaged", "AveragedStatistics", "Stopping", "ChangedAtEnd"])
def test_a_rung_that_ended_and_was_not_reported_is_not_trained_again(name, tmp_path):
    """What the end of the first rung makes of the weights is what it predicts with, and not where the second begins."""
    data, stores = problem(), [Store(str(tmp_path / folder)) for folder in ("through", "killed")]
    found = []
    for store, attempts in zip(stores, (1, 2), strict=True):
        for budget in (4, 6):
            for _ in range(attempts):
                trained = member(name, epochs=6)
                metrics = trained.fit(data, Context(1, Checkpoint(store, "m"), budget=budget))
            found.append((metrics["steps"], trained.predict(data.inputs)))
    for (steps, predictions), (steps_again, predictions_again) in zip(found[:2], found[2:], strict=True):
        assert steps == steps_again
        np.testing.assert_array_equal(predictions, predictions_again)


@pytest.mark.parametrize("name", ["Light", "Validated", "Falling", "MadeLate", "Averaged"])
def test_rungs_end_as_one_training_does(name, tmp_path):
    data, store = problem(), Store(str(tmp_path))
    whole, in_rungs = member(name, epochs=9), member(name, epochs=9)
    through = whole.fit(data, Context(1))
    found = [in_rungs.fit(data, Context(1, Checkpoint(store, "m"), budget=budget)) for budget in (1, 3, 9)]
    assert [one["new_epochs"] for one in found] == [1, 2, 6]
    assert found[-1]["steps"] == through["steps"]
    np.testing.assert_array_equal(in_rungs.predict(data.inputs), whole.predict(data.inputs))


# The config check -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("__main__:Net", ["other processes cannot find '__main__:Net'", "nets:Net"]),
        ("__mp_main__:Net", ["other processes cannot find"]),
        ("odd_modules:NoForward", ["has no forward"]),
        ("odd_modules:OnlyTested", ["has no training_step", "forward and training_step and configure_optimizers"]),
        ("odd_modules:OwnRows", ["train_dataloader", "never called", "*train* split"]),
        ("odd_modules:OwnValidationRows", ["val_dataloader", "held back"]),
        ("odd_modules:Legacy", ["training_epoch_end", "on_train_epoch_end"]),
    ],
)
def test_classes_that_cannot_work_are_refused_before_work(path, words):
    with pytest.raises(ConfigError) as caught:
        registry.build_member({"family": "mine", "kind": "module", "path": path})
    assert all(word in str(caught.value) for word in ["members.mine: path", *words]), str(caught.value)


def test_a_test_step_is_said_to_be_unused():
    with pytest.warns(UserWarning, match="odd_modules:Tested: test_step is never called"):
        member("Tested")

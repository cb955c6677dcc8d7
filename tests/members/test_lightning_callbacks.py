"""The callbacks of a LightningModule are honoured or refused, its best weights are kept, what it logs is measured."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import callback_modules
import numpy as np
import pytest
import torch
from test_modules import problem

from distens import registry
from distens.errors import ConfigError, Diverged, Refused
from distens.storage.checkpoint import Checkpoint
from distens.storage.store import Store
from distens.training import surroundings
from distens.training.context import Context


def member(name: str, **changes) -> Any:
    settings = {"kind": "module", "path": f"callback_modules:{name}", "epochs": 3, "batch_size": 30, **changes}
    return registry.build_member({"family": "mine", **settings})


@pytest.fixture(autouse=True)
def seen(monkeypatch):
    monkeypatch.setattr(surroundings, "_SHOWN", set())
    callback_modules.SEEN.clear()
    return callback_modules.SEEN


class Interrupted(Checkpoint):
    """Saves after each epoch, and is killed right after one of the saves."""

    def __init__(self, store: Store, saves: int) -> None:
        super().__init__(store, "m", every_seconds=0)
        self.left = saves

    def save(self, state) -> None:
        super().save(state)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def weights(trained: Any) -> dict[str, Any]:
    return {name: array.tolist() for name, array in trained.state().arrays.items()}


def lists(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in tensors.items()}


# The best weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "best"),
    [("Wandering", 2), ("Highest", 3), ("Monitors", 2), ("OnTraining", 2), ("FirstNotANumber", 4)],
)
def test_the_weights_of_the_best_epoch_are_kept(name, best, seen):
    """Validation losses of 0.5, 0.2, 0.9, 0.4, 0.3 and 0.2: the first of the lowest is the second epoch's."""
    trained = member(name, epochs=6, keep="best")
    metrics = trained.fit(problem(), Context(1))
    assert (metrics["epochs"], metrics["best_epoch"], len(seen)) == (6, best, 6)
    assert weights(trained) == lists(seen[best - 1])
    assert weights(trained) != lists(seen[-1])


def test_by_default_the_last_weights_are_kept(seen):
    trained = member("Wandering", epochs=6)
    metrics = trained.fit(problem(), Context(1))
    assert "best_epoch" not in metrics
    assert weights(trained) == lists(seen[-1])


def test_averaged_weights_are_kept_as_they_were_validated(seen):
    """Each epoch is seen twice: before the averaged weights are put in for the validation, and after."""
    trained = member("Ema", epochs=4, keep="best")
    assert trained.fit(problem(), Context(1))["best_epoch"] == 2
    assert weights(trained) == lists(seen[3])
    assert weights(trained) != lists(seen[2])


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_an_interrupted_training_keeps_the_same_best_weights(saves, tmp_path):
    data, store = problem(), Store(str(tmp_path))
    whole, resumed = member("Monitors", epochs=5, keep="best"), member("Monitors", epochs=5, keep="best")
    through = whole.fit(data, Context(1))
    with pytest.raises(KeyboardInterrupt):
        member("Monitors", epochs=5, keep="best").fit(data, Context(1, Interrupted(store, saves)))
    metrics = resumed.fit(data, Context(1, Checkpoint(store, "m")))
    assert {**metrics, "seconds": 0} == {**through, "seconds": 0}
    assert weights(resumed) == weights(whole)


def test_rungs_keep_the_best_weights_so_far_and_train_on_from_the_last(tmp_path, seen):
    data, store = problem(), Store(str(tmp_path))
    found = {}
    for budget in (1, 3, 6):
        found[budget] = member("Wandering", epochs=6, keep="best")
        metrics = found[budget].fit(data, Context(1, Checkpoint(store, "m"), budget=budget))
        assert metrics["best_epoch"] == min(budget, 2)
    in_rungs = list(map(lists, seen))
    seen.clear()
    member("Wandering", epochs=6).fit(data, Context(1))
    assert in_rungs == list(map(lists, seen))
    assert [weights(one) for one in found.values()] == [in_rungs[0], in_rungs[1], in_rungs[1]]


def test_a_rung_that_ended_and_was_not_reported_gives_the_best_weights(tmp_path, seen):
    data, store = problem(), Store(str(tmp_path))
    first, again = member("Wandering", epochs=6, keep="best"), member("Wandering", epochs=6, keep="best")
    before = first.fit(data, Context(1, Checkpoint(store, "m"), budget=4))
    context = Context(1, Checkpoint(store, "m"), budget=4)
    after = again.fit(data, context)
    assert len(seen) == 4  # no epoch was trained again
    assert {**after, "seconds": 0, "new_epochs": 4} == {**before, "seconds": 0}
    assert weights(again) == weights(first)
    assert list(context.logged["val_loss"].values()) == pytest.approx([0.5, 0.2, 0.9, 0.4])


def test_before_the_first_validation_the_last_weights_are_kept(seen):
    trained = member("Wandering", keep="best", trainer={"check_val_every_n_epoch": 5})
    assert "best_epoch" not in trained.fit(problem(), Context(1))
    assert weights(trained) == lists(seen[-1])


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("Silent", Refused, "keep: best goes by 'val_loss', which nothing logs; logged: other. Log it"),
        ("Swa", Refused, "keep: best would throw away the weights that StochasticWeightAveraging averages"),
        ("NotANumber", Diverged, "keep: best: 'val_loss' was not a number in any epoch"),
    ],
)
def test_without_a_best_epoch_there_is_an_error(name, error, words):
    with pytest.raises(error, match=words):
        member(name, keep="best").fit(problem(), Context(1))


@pytest.mark.parametrize("path", ["odd_modules:Light", "odd_modules:Base"])
def test_the_best_weights_of_what_is_not_validated_are_refused_by_the_config_check(path):
    with pytest.raises(ConfigError, match=f"keep: best goes by a value that validation_step logs, and {path} has none"):
        registry.build_member({"kind": "module", "path": path, "keep": "best"})


@pytest.mark.usefixtures("ray_here")
def test_several_processes_keep_and_log_the_same():
    data, context = problem(), Context(1)
    trained = member("Wandering", epochs=4, keep="best", processes=2)
    metrics = trained.fit(data, context)
    assert (metrics["best_epoch"], metrics["logged.val_loss"]) == (2, 0.4)
    assert context.logged["val_loss"] == pytest.approx({1: 0.5, 2: 0.2, 3: 0.9, 4: 0.4})


# Callbacks ------------------------------------------------------------------------------------------------------------


def test_a_model_checkpoint_writes_to_the_member_s_folder(tmp_path, monkeypatch, seen):
    """Three losses that fall: the two best are those of the last two epochs, counted from 0."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "members" / "m1"
    member("Saving").fit(problem(), Context(1, folder=folder))
    assert sorted(file.name for file in folder.iterdir()) == ["epoch=1.ckpt", "epoch=2.ckpt"]
    path, checkpoint = seen[0]
    assert path == str(folder / "epoch=2.ckpt")
    assert (checkpoint["epoch"], len(checkpoint["state_dict"])) == (2, 4)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["members"]


def test_without_a_folder_a_model_checkpoint_writes_to_a_temporary_one(tmp_path, monkeypatch, seen):
    monkeypatch.chdir(tmp_path)
    member("Saving").fit(problem(), Context(1))
    path, checkpoint = seen[0]
    assert checkpoint["epoch"] == 2
    assert not Path(path).parent.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_members_would_share_is_replaced_and_that_is_said(tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "own"
    with pytest.warns(UserWarning, match=f"Saving: .*writes to {own}, a folder of .* and not to {shared}"):
        member("Saving", options={"folder": str(shared)}).fit(problem(), Context(1, folder=own))
    assert len(list(own.iterdir())) == 2
    assert not shared.exists()


def test_a_model_checkpoint_leaves_distens_checkpoint_alone(tmp_path):
    """It writes after each of 12 steps; distens' own checkpoint is that of the first epoch's end."""
    data, store = problem(), Store(str(tmp_path / "run"))
    whole, resumed = member("SavingEachStep"), member("SavingEachStep")
    through = whole.fit(data, Context(1))
    with pytest.raises(KeyboardInterrupt):
        member("SavingEachStep").fit(data, Context(1, Interrupted(store, 1), folder=tmp_path / "own"))
    assert len(list((tmp_path / "own").iterdir())) == 4
    state = Checkpoint(store, "m").load()
    assert state is not None
    assert (state.meta["epoch"], state.meta["steps"]) == (1, 4)
    metrics = resumed.fit(data, Context(1, Checkpoint(store, "m"), folder=tmp_path / "own"))
    assert {**metrics, "seconds": 0} == {**through, "seconds": 0}
    assert weights(resumed) == weights(whole)
    assert len(list((tmp_path / "own").iterdir())) == 12


def test_the_learning_rate_is_logged():
    context = Context(1)
    metrics = member("Rates").fit(problem(), context)
    assert context.logged == {"lr-SGD": {1: 0.1, 2: 0.05, 3: 0.025}}
    assert metrics["logged.lr-SGD"] == 0.025


def test_steps_are_counted_as_gradients_are_accumulated():
    assert member("Accumulating").fit(problem(), Context(1))["steps"] == 4 + 2 + 2


@pytest.mark.parametrize("name", ["Accumulating", "Finetuned", "Ema", "Rates", "Saving", "Logs"])
def test_interrupted_callbacks_resume(name, tmp_path):
    data, store, folder = problem(), Store(str(tmp_path / "run")), tmp_path / "own"
    whole, resumed = member(name, epochs=4), member(name, epochs=4)
    contexts = [Context(1), Context(1, Checkpoint(store, "m"), folder=folder)]
    through = whole.fit(data, contexts[0])
    with pytest.raises(KeyboardInterrupt):
        member(name, epochs=4).fit(data, Context(1, Interrupted(store, 2), folder=folder))
    metrics = resumed.fit(data, contexts[1])
    assert {**metrics, "seconds": 0} == {**through, "seconds": 0}
    assert contexts[0].logged == contexts[1].logged
    assert weights(resumed) == weights(whole)


def test_a_backbone_is_frozen_until_its_epoch():
    untrained, trained = member("Finetuned", epochs=1), member("Finetuned", epochs=3)
    untrained.fit(problem(), Context(1))
    trained.fit(problem(), Context(1))
    frozen, moved = untrained.state().arrays, trained.state().arrays
    assert not np.array_equal(frozen["network.last.weight"], moved["network.last.weight"])
    two = member("Finetuned", epochs=2)
    two.fit(problem(), Context(1))
    np.testing.assert_array_equal(frozen["network.first.weight"], two.state().arrays["network.first.weight"])
    assert not np.array_equal(frozen["network.first.weight"], moved["network.first.weight"])


def test_a_callback_of_the_user_s_own_is_called(seen):
    assert member("Own").fit(problem(), Context(1))["steps"] == 12
    assert seen == ["batch"] * 12


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FindsRate", "LearningRateFinder cannot be used: the learning rate is one of the member's `options`"),
        ("FindsBatch", "Lightning does not take the module: The Batch size finder cannot be used"),
        ("SavesOnException", "OnExceptionCheckpoint cannot be used: .* resumes from the checkpoint"),
        ("Writes", "BasePredictionWriter cannot be used: it is never called"),
        ("LoadsCheckpoint", "other.ckpt: distens loads no checkpoint of Lightning's, which is a pickle"),
        ("Draws", r"self.logger.experiment.add_image: the logger of a run takes numbers alone: use self.log"),
    ],
)
def test_what_cannot_work_is_refused_by_name(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match=words):
        member(name).fit(problem(), Context(1))
    assert list(tmp_path.iterdir()) == []


# What is logged -------------------------------------------------------------------------------------------------------


def test_what_a_module_logs_is_measured_by_epochs():
    """Values of steps count at the end of the epoch, so `last_batch` is 3; what is not finite is left out; no name of
    distens' own is touched."""
    context = Context(1)
    metrics = member("Logs").fit(problem(), context)
    logged = context.logged
    assert logged["epochs"] == {1: 0.0, 2: 1.0, 3: 2.0}
    assert logged["last_batch"] == dict.fromkeys((1, 2, 3), 3.0)
    assert logged["rare"] == {2: 7.0}
    assert logged["infinite"] == {1: 1.0}
    assert list(logged["val_loss"]) == [1, 2, 3]
    assert set(logged) == {"epochs", "last_batch", "rare", "infinite", "val_loss", "train_loss", "nll"}
    assert logged["train_loss"][3] == pytest.approx(metrics["train_loss"], rel=0.05)  # Lightning's is weighted by rows
    assert {name.removeprefix("logged.") for name in metrics if name.startswith("logged.")} == set(logged)
    assert (metrics["epochs"], metrics["logged.epochs"], metrics["logged.rare"]) == (3, 2.0, 7.0)


def test_too_many_names_are_cut_and_that_is_said():
    context = Context(1)
    with pytest.warns(UserWarning, match="LogsMuch: more than 50 names were logged; .* 10 are left out: value_50"):
        metrics = member("LogsMuch").fit(problem(), context)
    assert len(context.logged) == 50
    assert (metrics["logged.value_49"], "logged.value_50" in metrics) == (49.0, False)


# Lightning's warnings -------------------------------------------------------------------------------------------------


def test_a_warning_about_the_module_is_shown_once_with_its_name():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in (1, 2):
            registry.build_member({"kind": "module", "path": "odd_modules:Evaluating", "epochs": 1}).fit(
                problem(), Context(seed)
            )
    said = [str(one.message) for one in caught]
    mine = [text for text in said if "Lightning warns" in text]
    assert len(mine) == 1
    assert mine[0].startswith("Evaluating: Lightning warns: Found 1 module(s) in eval mode at the start of training.")
    assert not [text for text in said if "does not have many workers" in text or "LeafSpec" in text]


def test_warnings_of_the_user_s_own_code_pass():
    with pytest.warns(UserWarning, match="mine, in training_step"):
        registry.build_member({"kind": "module", "path": "odd_modules:Warns", "epochs": 1}).fit(problem(), Context(1))

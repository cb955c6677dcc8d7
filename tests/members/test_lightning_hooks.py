"""Every public name of a LightningModule is honoured, refused, or said to have no effect: the table, and each entry."""

from __future__ import annotations

import warnings

import hooked_modules
import pytest
import torch
from lightning.pytorch import LightningModule
from test_modules import problem
from torch import nn

from distens import registry
from distens.errors import ConfigError
from distens.members import _lightning_hooks as hooks
from distens.members import module
from distens.storage.checkpoint import Checkpoint
from distens.storage.store import Store
from distens.training.context import Context

LEGACY = ("training_epoch_end", "validation_epoch_end", "training_step_end", "validation_step_end", "on_epoch_start")
LEGACY += ("on_epoch_end", "on_batch_start", "on_batch_end", "on_pretrain_routine_start", "on_pretrain_routine_end")
LEGACY += ("tbptt_split_batch",)
"""Names that are Lightning's no more."""

LIGHTNINGS = {
    name
    for name in dir(LightningModule)
    if name[0] != "_" and getattr(nn.Module, name, None) is not getattr(LightningModule, name)
}


def member(name: str, **changes):
    settings = {"kind": "module", "path": f"hooked_modules:{name}", "epochs": 2, "batch_size": 30, **changes}
    return registry.build_member({"family": "mine", **settings})


@pytest.fixture(autouse=True)
def _first_in_its_process(monkeypatch):
    monkeypatch.setattr(module, "_WARNED", set())


def test_the_table_has_every_public_name_of_a_lightning_module_once():
    """A name that Lightning adds fails here, until it is decided what becomes of it."""
    parts = [hooks.HONOURED, hooks.USED, hooks.NEVER_CALLED, hooks.NO_EFFECT, hooks.NOT_ALLOWED]
    names = [name for part in parts for name in part]
    assert len(names) == len(set(names))
    assert set(names) - LIGHTNINGS == set(LEGACY)
    assert LIGHTNINGS - set(names) == set()


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    """The number of calls of each hook in a training that was interrupted, and resumed from its checkpoint."""

    class Interrupted(Checkpoint):
        def save(self, state) -> None:
            super().save(state)
            raise KeyboardInterrupt

    store = Store(str(tmp_path_factory.mktemp("hooked")))
    hooked_modules.CALLED.clear()
    with pytest.raises(KeyboardInterrupt):
        member("Hooked").fit(problem(), Context(1, Interrupted(store, "m", every_seconds=0)))
    member("Hooked").fit(problem(), Context(1, Checkpoint(store, "m")))
    return dict(hooked_modules.CALLED)


@pytest.mark.parametrize("name", sorted(hooks.HONOURED))
def test_what_is_honoured_is_called(name, called):
    assert called.get(name, 0) > 0


def test_hooks_are_called_as_often_as_things_happen(called):
    """108 rows are four batches, 12 rows are held back; two epochs, of which the first is saved and the second resumed.
    Optimizers step through a closure, so hooks between backward and step come once for each batch."""
    steps = ["training_step", "on_train_batch_start", "on_train_batch_end", "optimizer_step", "on_before_backward"]
    steps += ["on_after_backward", "on_before_optimizer_step", "on_before_zero_grad", "backward"]
    assert {name: called[name] for name in steps} == dict.fromkeys(steps, 8)
    epochs = ["validation_step", "on_validation_start", "on_validation_epoch_end", "on_train_epoch_end"]
    epochs += ["lr_scheduler_step"]
    assert {name: called[name] for name in epochs} == dict.fromkeys(epochs, 2)
    assert (called["on_save_checkpoint"], called["on_load_checkpoint"]) == (1, 1)


@pytest.fixture(scope="module")
def found():
    hooked_modules.FOUND.clear()
    context = Context(1)
    hooked_modules.FOUND["metrics"] = member("Uses").fit(problem(), context)
    return dict(hooked_modules.FOUND)


USED = {
    "CHECKPOINT_HYPER_PARAMS_KEY": "hyper_parameters",
    "CHECKPOINT_HYPER_PARAMS_NAME": "hparams_name",
    "CHECKPOINT_HYPER_PARAMS_TYPE": "hparams_type",
    "all_gather": [1.0, 1.0],
    "automatic_optimization": False,
    "clip_gradients": pytest.approx(1e-3, abs=1e-3),
    "cpu": True,
    "current_epoch": 1,
    "device": torch.device("cpu"),
    "device_mesh": None,
    "double": True,
    "dtype": torch.float32,
    "fabric": None,
    "float": True,
    "freeze": False,
    "global_rank": 0,
    "global_step": 7,
    "half": True,
    "hparams": {"input_shape": (4,), "width": 5, "more": 1},
    "hparams_initial": {"input_shape": (4,), "width": 5},
    "local_rank": 0,
    "logger": "NumberLogger",
    "loggers": 1,
    "lr_schedulers": "StepLR",
    "manual_backward": pytest.approx(50, abs=50),
    "on_gpu": False,
    "optimizers": "LightningSGD",
    "remove_ignored_hparams": True,
    "save_hyperparameters": 5,
    "strict_loading": True,
    "to": True,
    "toggle_optimizer": True,
    "toggled_optimizer": True,
    "trainer": 2,
    "type": True,
    "unfreeze": True,
    "untoggle_optimizer": True,
}
"""Name -> what the module of the fixture finds with it."""

LOGGED = {"log": {"one": 1.0}, "log_dict": {"two": 2.0, "three": 3.0}}

AT_HOME = ("cuda", "load_from_checkpoint", "to_onnx", "to_torchscript", "to_tensorrt")
"""What a training does not use: a GPU, and files for elsewhere."""


@pytest.mark.parametrize("name", sorted(hooks.USED - {*LOGGED, *AT_HOME, "print"}))
def test_what_a_module_uses_works(name, found):
    assert found[name] == USED[name]


def test_gradients_are_clipped_in_manual_optimization(found):
    assert found["manual_backward"] > 1 > found["clip_gradients"] > 0


@pytest.mark.parametrize("name", sorted(LOGGED))
def test_what_a_module_logs_is_measured(name, found):
    metrics = found["metrics"]
    assert {key: metrics[f"logged.{key}"] for key in LOGGED[name]} == LOGGED[name]


def test_what_a_module_logs_by_its_logger_is_measured(found):
    assert found["metrics"]["logged.four"] == 4.0


def test_a_module_prints(capsys):
    member("Uses", epochs=1).fit(problem(), Context(1))
    assert "printed by the module" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(AT_HOME))
def test_tools_for_elsewhere_are_lightning_s_own(name):
    assert getattr(hooked_modules.Uses, name).__module__.startswith("lightning.")


def test_what_is_never_called_is_said_once_by_name():
    hooked_modules.CALLED.clear()
    with pytest.warns(UserWarning, match="never called") as caught:
        assert [member("Unused").fit(problem(), Context(seed))["epochs"] for seed in (1, 2)] == [2, 2]
    said = [str(one.message) for one in caught if "never called" in str(one.message)]
    assert len(said) == 1
    assert all(name in said[0] for name in hooks.NEVER_CALLED)
    assert hooked_modules.CALLED == {}


@pytest.mark.parametrize("name", hooks.NO_EFFECT)
def test_what_has_no_effect_is_said_once(name):
    with pytest.warns(UserWarning, match=f"Example: {name} has no effect: ") as caught:
        assert [member("Example").fit(problem(), Context(seed))["epochs"] for seed in (1, 2)] == [2, 2]
    assert len([one for one in caught if name in str(one.message)]) == 1


@pytest.mark.parametrize("name", hooks.NOT_ALLOWED)
def test_what_cannot_have_its_effect_is_refused_by_the_config_check(name):
    with pytest.raises(ConfigError) as caught:
        member(f"Has_{name}")
    assert f"has a {name}, which is never called: {hooks.NOT_ALLOWED[name]}" in str(caught.value)


def test_a_module_without_odd_parts_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert member("Hooked").fit(problem(), Context(1))["epochs"] == 2

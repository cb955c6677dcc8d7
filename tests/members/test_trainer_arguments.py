"""Arguments of Lightning's Trainer: those that a member may set have their effect, the others are refused by reason."""

from __future__ import annotations

import inspect
from typing import Any

import odd_modules
import pytest
import torch
from lightning.pytorch import Trainer
from test_modules import problem
from torch import nn

from distens import registry
from distens.errors import ConfigError, Refused
from distens.members._trainer_arguments import DECIDED, TrainerArguments
from distens.training.context import Context
from distens.training.network import initialise

ALLOWED = list(TrainerArguments.__annotations__)


def member(arguments: dict[str, Any], name: str = "Validated", **changes) -> Any:
    settings = {"kind": "module", "path": f"odd_modules:{name}", "epochs": 3, "batch_size": 30, "trainer": arguments}
    return registry.build_member({"family": "mine", **settings, **changes})


def test_every_argument_of_the_trainer_is_allowed_or_decided():
    """An argument that Lightning adds fails here, until it is decided what becomes of it."""
    found = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
    assert sorted(found) == sorted([*ALLOWED, *DECIDED])


@pytest.mark.parametrize("name", DECIDED)
def test_what_distens_decides_is_refused_by_reason(name):
    with pytest.raises(ConfigError) as caught:
        member({name: 1})
    assert f"members.mine: trainer.{name}: cannot be set: {DECIDED[name]}. Allowed: precision, " in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"precison": "bf16-mixed"}, "trainer.precison: unknown argument. Did you mean 'precision'"),
        ({"precision": "bf16-true"}, "trainer.precision: input should be '32-true', 'bf16-mixed' or '16-mixed'"),
        ({"gradient_clip_val": 0}, "trainer.gradient_clip_val: input should be greater than 0, found 0"),
        ({"gradient_clip_val": "1"}, "trainer.gradient_clip_val: input should be a valid number"),
        ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches: input should be greater than"),
        ({"limit_train_batches": 0.0}, "trainer.limit_train_batches.*greater than"),
        ({"limit_train_batches": 1.5}, "trainer.limit_train_batches"),
        ({"detect_anomaly": "yes"}, "trainer.detect_anomaly: input should be a valid boolean"),
        ({"gradient_clip_algorithm": "norm"}, "trainer.gradient_clip_algorithm: has no effect without gradient_clip_"),
        ({"sync_batchnorm": True}, "trainer.sync_batchnorm: has no effect with processes: 1"),
    ],
)
def test_values_that_are_wrong_or_without_effect_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        member(arguments)


@pytest.mark.parametrize("argument", ["check_val_every_n_epoch", "limit_val_batches"])
@pytest.mark.parametrize("name", ["Light", "Base"])
def test_arguments_of_validation_need_a_validation_step(name, argument):
    with pytest.raises(ConfigError, match=f"{argument}: has no effect: there is no validation_step"):
        member({argument: 1}, name)


def fitted(arguments: dict[str, Any], name: str = "Validated", **changes) -> tuple[Any, Any]:
    """Return the metrics, and the trained network."""
    trained = member(arguments, name, **changes)
    return trained.fit(problem(), Context(1)), trained._network


def test_gradients_are_accumulated():
    assert fitted({"accumulate_grad_batches": 2})[0]["steps"] == 6


def test_batches_are_limited():
    metrics, network = fitted({"limit_train_batches": 1, "limit_val_batches": 1.0})
    assert (metrics["steps"], network.rows_seen) == (3, [12] * 3)
    assert fitted({"limit_train_batches": 0.5})[0]["steps"] == 6


def test_validation_is_made_every_second_epoch():
    """The learning rate's schedule needs a value after each epoch, so this module has none."""
    metrics, network = fitted({"check_val_every_n_epoch": 2}, "ValidatedPlainly", epochs=5)
    assert (metrics["epochs"], network.rows_seen) == (5, [12] * 2)


def test_gradients_are_clipped():
    """Steps of plain gradient descent at a rate of 0.1, each with a gradient of norm 0.01 at most, 12 of them."""
    untrained = initialise(lambda: odd_modules.Light((4,), 3), seed=1)
    for algorithm in ("norm", "value"):
        clipped = fitted({"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}, "Light")[1]
        free = fitted({}, "Light")[1]
        start = nn.utils.parameters_to_vector(untrained.parameters()).detach()
        moved = [nn.utils.parameters_to_vector(one.parameters()).detach() - start for one in (clipped, free)]
        bound = 12 * 0.1 * 0.01
        measured = [float(step.norm() if algorithm == "norm" else step.abs().max()) for step in moved]
        assert 0 < measured[0] <= bound * 1.001 < measured[1]


def test_precision_is_that_of_activations_and_weights_stay_single():
    plain, network = fitted({"precision": "bf16-mixed"}, "SeesTypes")
    assert network.types == {torch.bfloat16}
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert fitted({"precision": "32-true"}, "SeesTypes")[1].types == {torch.float32}
    assert plain["steps"] == 12


def test_a_plain_network_has_the_arguments_too():
    assert fitted({"precision": "bf16-mixed", "accumulate_grad_batches": 4}, "Base")[0]["steps"] == 3


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_anomalies_are_found():
    with pytest.raises(RuntimeError, match="returned nan values"):
        fitted({"detect_anomaly": True}, "NanGradient")


def test_manual_optimization_clips_by_itself():
    with pytest.raises(Refused, match="Automatic gradient clipping is not supported for manual optimization"):
        fitted({"gradient_clip_val": 1.0}, "Manual")


@pytest.mark.usefixtures("ray_here")
def test_several_processes_have_the_arguments_too():
    assert fitted({"accumulate_grad_batches": 2}, "Light", processes=2)[0]["steps"] == 6


@pytest.mark.usefixtures("ray_here")
def test_batch_statistics_are_shared_between_gpus_alone():
    with pytest.raises(Refused, match=r"trainer\.sync_batchnorm: torch has it for GPUs alone"):
        fitted({"sync_batchnorm": True}, "AveragedStatistics", processes=2)

"""The arguments of Lightning's Trainer that a member may set, and the reasons why it may not set the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from distens.errors import did_you_mean
from distens.registry import describe

_Batches = Annotated[int, Ge(1)] | Annotated[float, Gt(0), Le(1)]


class TrainerArguments(TypedDict, total=False):
    """The arguments that a member may set, with the values that they take here; the meaning is Lightning's.

    The weights stay in single precision, as those that predict are: `precision` may not be `bf16-true` and the like.
    """

    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    gradient_clip_val: Annotated[float, Gt(0)]
    gradient_clip_algorithm: Literal["norm", "value"]
    accumulate_grad_batches: Annotated[int, Ge(1)]
    limit_train_batches: _Batches
    limit_val_batches: _Batches
    check_val_every_n_epoch: Annotated[int, Ge(1)]
    sync_batchnorm: bool
    detect_anomaly: bool


OF_VALIDATION = ("limit_val_batches", "check_val_every_n_epoch")
"""The arguments without effect on a module that has no validation step."""

_LENGTH = "write the member's `epochs`"
_DEVICES = "the runtime gives a member its devices, and `processes` divides it among several"
_NEVER = "distens predicts by forward, and measures itself"
_ROWS = "rows and their order come from the run's *train* split"
_SHOWN = "a run has many members; what they log goes to the report, the page and MLflow"
_REPEATED = "distens makes every training repeatable"

DECIDED = {
    **dict.fromkeys(("max_epochs", "min_epochs", "max_steps", "min_steps"), _LENGTH),
    **dict.fromkeys(("accelerator", "strategy", "devices", "num_nodes"), _DEVICES),
    **dict.fromkeys(("limit_test_batches", "limit_predict_batches"), _NEVER),
    **dict.fromkeys(("use_distributed_sampler", "reload_dataloaders_every_n_epochs"), _ROWS),
    **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams"), _SHOWN),
    **dict.fromkeys(("deterministic", "benchmark"), _REPEATED),
    **dict.fromkeys(("fast_dev_run", "overfit_batches"), "few `epochs` and limit_train_batches make a short training"),
    "max_time": "write runtime.timeout_seconds; a training that ends by the clock cannot be repeated",
    "callbacks": "the module's configure_callbacks returns them",
    "val_check_interval": "validation comes at the end of epochs; see check_val_every_n_epoch",
    "num_sanity_val_steps": "the network is looked at before its training anyway",
    "log_every_n_steps": "curves have one point for each epoch",
    "enable_checkpointing": "distens keeps checkpoints; a ModelCheckpoint in configure_callbacks works besides",
    "default_root_dir": "what callbacks write goes to the member's folder in the run",
    "inference_mode": "Lightning uses none in the validation of a training",
    "profiler": "its output has no place in a run; profile a training of the module by itself",
    "barebones": "it would switch off what the module logs",
    "plugins": "precision is `precision`, and distens keeps the checkpoints",
    "model_registry": "distens registers what the run ends with",
}
"""The other arguments, and why a member cannot set them."""


def check_trainer_arguments(given: Mapping[str, Any], processes: int, validates: bool) -> None:
    """Check the arguments of one member.

    Args:
        processes: the number of processes that train it.
        validates: whether it has a validation step.

    Raises:
        ValueError: an argument is not among those that a member may set, has another value than allowed, or no effect.
    """
    allowed = list(TrainerArguments.__annotations__)
    for name in given:
        if name in DECIDED:
            raise ValueError(f"trainer.{name}: cannot be set: {DECIDED[name]}. Allowed: {', '.join(allowed)}")
        if name not in allowed:
            raise ValueError(f"trainer.{name}: unknown argument. {did_you_mean(str(name), allowed)}")
    try:
        TypeAdapter(TrainerArguments).validate_python(dict(given), strict=True)
    except ValidationError as error:
        raise ValueError(describe(error, "trainer")) from error
    for name in OF_VALIDATION if not validates else ():
        if name in given:
            raise ValueError(f"trainer.{name}: has no effect: there is no validation_step")
    if "gradient_clip_algorithm" in given and "gradient_clip_val" not in given:
        raise ValueError("trainer.gradient_clip_algorithm: has no effect without gradient_clip_val")
    if "sync_batchnorm" in given and processes == 1:
        raise ValueError("trainer.sync_batchnorm: has no effect with processes: 1")

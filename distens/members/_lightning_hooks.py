"""The table of all public names of a LightningModule, and what becomes of each that a user's class overrides or uses.

Lightning's loops honour most names, as the module is trained by Lightning's own Trainer. The other names are refused
when the config is checked, or have no effect that anybody would miss, which is said once. Names that are torch's alone
(`state_dict`, `train`, …) are not listed. A name that a new version of Lightning adds is in no part of the table: a
test fails until somebody decides.
"""

from __future__ import annotations

HONOURED = frozenset(
    (
        # steps, and what they need
        "forward",
        "training_step",
        "validation_step",
        "configure_optimizers",
        "configure_callbacks",
        "configure_model",
        "configure_gradient_clipping",
        "backward",
        "optimizer_step",
        "optimizer_zero_grad",
        "lr_scheduler_step",
        "transfer_batch_to_device",
        # hooks
        "prepare_data",
        "setup",
        "teardown",
        "on_fit_start",
        "on_fit_end",
        "on_train_start",
        "on_train_end",
        "on_train_epoch_start",
        "on_train_epoch_end",
        "on_train_batch_start",
        "on_train_batch_end",
        "on_validation_start",
        "on_validation_end",
        "on_validation_epoch_start",
        "on_validation_epoch_end",
        "on_validation_batch_start",
        "on_validation_batch_end",
        "on_validation_model_eval",
        "on_validation_model_train",
        "on_validation_model_zero_grad",
        "on_before_batch_transfer",
        "on_after_batch_transfer",
        "on_before_backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_before_zero_grad",
        "on_save_checkpoint",
        "on_load_checkpoint",
    )
)
"""What Lightning calls during a training, at the moments and with the arguments that its documentation gives.

`on_save_checkpoint` and `on_load_checkpoint` get the checkpoints of an interrupted training, not the member's state,
which is the module's `state_dict` alone."""

USED = frozenset(
    (
        # of the training
        "automatic_optimization",
        "current_epoch",
        "global_step",
        "trainer",
        "optimizers",
        "lr_schedulers",
        "manual_backward",
        "clip_gradients",
        "toggle_optimizer",
        "untoggle_optimizer",
        "toggled_optimizer",
        "freeze",
        "unfreeze",
        # of what is logged
        "log",
        "log_dict",
        "logger",
        "loggers",
        "print",
        # of the process and its device
        "device",
        "dtype",
        "on_gpu",
        "global_rank",
        "local_rank",
        "all_gather",
        "fabric",
        "device_mesh",
        "to",
        "cpu",
        "cuda",
        "type",
        "float",
        "double",
        "half",
        # of the hyperparameters
        "save_hyperparameters",
        "hparams",
        "hparams_initial",
        "remove_ignored_hparams",
        "CHECKPOINT_HYPER_PARAMS_KEY",
        "CHECKPOINT_HYPER_PARAMS_NAME",
        "CHECKPOINT_HYPER_PARAMS_TYPE",
        # of files: for the user, before or after the training
        "strict_loading",
        "load_from_checkpoint",
        "to_onnx",
        "to_torchscript",
        "to_tensorrt",
    )
)
"""What a module uses and does not override: it does as in any training by Lightning."""

NEVER_CALLED = (
    "test_step",
    "test_dataloader",
    *(f"on_test_{at}" for at in ("start", "end", "epoch_start", "epoch_end", "batch_start", "batch_end")),
    *("on_test_model_eval", "on_test_model_train"),
    "predict_step",
    "predict_dataloader",
    *(f"on_predict_{at}" for at in ("start", "end", "epoch_start", "epoch_end", "batch_start", "batch_end")),
    "on_predict_model_eval",
)
"""Parts of testing and predicting by a Trainer, which do no harm: that they are not called is said once."""

NO_EFFECT = {"example_input_array": "distens gives the network rows of the run itself, and draws no graph of it"}
"""Attributes that do no harm: that a module sets one is said once, with the reason."""

_REMOVED = "Lightning calls it no more; "

NOT_ALLOWED = {
    "train_dataloader": "rows come from the run's *train* split. Make a LightningDataModule of it, and write that as "
    "data.source: package.module:Class",
    "val_dataloader": "validation_step gets rows that are held back from *train*. Make a LightningDataModule of it, "
    "and write that as data.source: package.module:Class",
    "configure_sharded_model": "Lightning gives it up for configure_model; rename it",
    # What Lightning 1 called, and Lightning 2 ignores.
    "training_epoch_end": f"{_REMOVED}it is on_train_epoch_end now",
    "validation_epoch_end": f"{_REMOVED}it is on_validation_epoch_end now",
    "training_step_end": f"{_REMOVED}do it at the end of training_step",
    "validation_step_end": f"{_REMOVED}do it at the end of validation_step",
    "on_epoch_start": f"{_REMOVED}it is on_train_epoch_start now",
    "on_epoch_end": f"{_REMOVED}it is on_train_epoch_end now",
    "on_batch_start": f"{_REMOVED}it is on_train_batch_start now",
    "on_batch_end": f"{_REMOVED}it is on_train_batch_end now",
    "on_pretrain_routine_start": f"{_REMOVED}it is on_fit_start now",
    "on_pretrain_routine_end": f"{_REMOVED}it is on_fit_start now",
    "tbptt_split_batch": f"{_REMOVED}divide the batch in training_step, with manual optimization",
}
"""Parts that cannot have their effect, and why."""

"""LightningModules that override or use every public name of a LightningModule, for the tests of the table of them."""

from __future__ import annotations

import inspect
from typing import Any

import odd_modules
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from distens.members._lightning_hooks import HONOURED, NEVER_CALLED, NOT_ALLOWED

CALLED: dict[str, int] = {}
FOUND: dict[str, Any] = {}


def _counting(name: str, method: Any) -> Any:
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        CALLED[name] = CALLED.get(name, 0) + 1
        return method(self, *args, **kwargs)

    counted.__signature__ = inspect.signature(method)  # Lightning reads it; with functools.wraps nothing is overridden
    return counted


def _with_methods(name: str, base: type, methods: dict[str, Any]) -> type:
    return type(name, (base,), {"__module__": __name__, **methods})


Hooked = _with_methods(
    "Hooked",
    odd_modules.Validated,
    {name: _counting(name, getattr(odd_modules.Validated, name)) for name in sorted(HONOURED)},
)
"""A module that counts the calls of all that is honoured, and else does as Lightning does by itself."""

Unused = _with_methods(
    "Unused",
    odd_modules.Light,
    {name: _counting(name, getattr(LightningModule, name)) for name in NEVER_CALLED},
)
"""A module with all that is never called."""

Refusable = {
    name: _with_methods(f"Has_{name}", odd_modules.Light, {name: lambda self, *_: None}) for name in NOT_ALLOWED
}
globals().update({cls.__name__: cls for cls in Refusable.values()})


class Example(odd_modules.Light):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.example_input_array = torch.zeros((1, *input_shape))


class Uses(odd_modules.Manual):
    """A module that uses what a LightningModule has, and keeps what it found in the last step."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = 5) -> None:
        super().__init__(input_shape, classes)
        self.save_hyperparameters(ignore=["classes"])
        self.hparams.more = 1
        FOUND["remove_ignored_hparams"] = "classes" not in self.hparams

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        for name in ("current_epoch", "global_step", "global_rank", "local_rank", "automatic_optimization", "on_gpu"):
            FOUND[name] = getattr(self, name)
        for name in ("device", "dtype", "fabric", "device_mesh", "strict_loading"):
            FOUND[name] = getattr(self, name)
        for name in ("CHECKPOINT_HYPER_PARAMS_KEY", "CHECKPOINT_HYPER_PARAMS_NAME", "CHECKPOINT_HYPER_PARAMS_TYPE"):
            FOUND[name] = getattr(self, name)
        FOUND["trainer"] = self.trainer.max_epochs
        FOUND["hparams"], FOUND["hparams_initial"] = dict(self.hparams), dict(self.hparams_initial)
        FOUND["save_hyperparameters"] = self.hparams.width
        FOUND["all_gather"] = self.all_gather(torch.ones(2)).tolist()
        FOUND["lr_schedulers"] = type(self.lr_schedulers()).__name__
        FOUND["loggers"], FOUND["logger"] = len(self.loggers), type(self.logger).__name__
        with self.toggled_optimizer(optimizer):
            FOUND["toggled_optimizer"] = True
        self.toggle_optimizer(optimizer)
        FOUND["toggle_optimizer"] = self.network.first.weight.requires_grad
        self.untoggle_optimizer(optimizer)
        FOUND["untoggle_optimizer"] = self.network.first.weight.requires_grad
        optimizer.zero_grad()
        loss = 100 * self.loss(batch)
        self.manual_backward(loss)
        FOUND["manual_backward"] = float(self.network.last.bias.grad.norm())
        self.clip_gradients(optimizer, gradient_clip_val=1e-3, gradient_clip_algorithm="norm")
        FOUND["clip_gradients"] = float(self.network.last.bias.grad.norm())
        optimizer.step()
        FOUND["optimizers"] = type(optimizer).__name__
        self.log("one", 1.0)
        self.log_dict({"two": 2.0, "three": 3.0})
        self.logger.log_metrics({"four": 4.0})
        self.print("printed by the module")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    def on_fit_start(self) -> None:
        self.freeze()
        FOUND["freeze"] = any(p.requires_grad for p in self.parameters())
        self.unfreeze()
        FOUND["unfreeze"] = all(p.requires_grad for p in self.parameters())
        for name, wanted in (("double", torch.float64), ("half", torch.float16), ("float", torch.float32)):
            FOUND[name] = getattr(self, name)().dtype == wanted
        FOUND["to"] = self.to("cpu").dtype == torch.float32
        FOUND["type"] = self.type(torch.float32).dtype == torch.float32
        FOUND["cpu"] = self.cpu().device.type == "cpu"

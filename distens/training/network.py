"""Functions for every network, however it is trained: seeded first weights, arrays, predictions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from distens.errors import Diverged, Refused, StorageError
from distens.models.module import is_lightning
from distens.models.protocol import Model, Rebuilds
from distens.records import Floats
from distens.registry import has_capability
from distens.seeding import derive
from distens.training.outputs import check_outputs

if TYPE_CHECKING:
    from torch import Tensor, nn

PREDICT_ROWS = 1024
"""Rows per step of prediction; fixed, because the last bits of a prediction depend on it."""

STACKED_ROWS = 256
STACKED_BYTES = 24 << 20
"""For stacked networks: the largest number of rows per step, and of bytes of activations, to fit into a CPU's cache."""

RUNNING_STATISTICS = frozenset(("running_mean", "running_var", "num_batches_tracked", "_u", "_v"))
"""The last parts of the names of buffers that batch and spectral normalisation update in every forward pass."""


@contextmanager
def local_chance(device: str) -> Iterator[None]:
    """Restore torch's global generators after the body, and make torch choose repeatable kernels in it."""
    import torch

    cuda = device.startswith("cuda")
    devices = [torch.cuda.current_device()] if cuda else []
    with torch.random.fork_rng(devices=devices):
        if not cuda:
            yield
            return
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Take denormal numbers (below 1.2e-38 in float32) for zero in the body, in this thread of the CPU alone.

    A CPU computes with them many times slower, and an optimizer's moments of weights that no longer learn become such.
    """
    import torch

    tiny = torch.tensor(1e-40, dtype=torch.float32, device="cpu")
    before = (tiny * 1).item() == 0  # torch tells nobody the state
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def initialise(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a network whose first weights depend on the seed alone, the same on every device."""
    with local_chance("cpu"):
        seed_global(derive(seed, "initialise"))
        return build()


def seed_global(seed: int, device: str = "cpu") -> None:
    """Seed torch's global generators; before CUDA is used, `torch.manual_seed` would record a stack trace each time."""
    import torch

    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        torch.cuda.manual_seed(seed)


def count_parameters(model: Model, input_shape: tuple[int, ...], classes: int) -> int:
    """Return the number of weights that the model's network would learn, without allocating them.

    Raises:
        Refused: the architecture does not fit the input shape.
    """
    import torch

    with torch.device("meta"):
        return parameters(model.build(input_shape, classes))


def parameters(network: nn.Module) -> int:
    """Return the number of weights that a network learns."""
    return sum(p.numel() for p in network.parameters())


def to_arrays(network: nn.Module) -> dict[str, Any]:
    """Return copies of all weights and buffers by name; bfloat16, which numpy lacks, as float32.

    Raises:
        Refused: the network's state has something else than dense tensors of numbers.
    """
    return {name: _to_array(network, name, value) for name, value in network.state_dict().items()}


def _to_array(network: nn.Module, name: str, value: Any) -> Any:
    import torch

    found = f"an object of type {type(value).__qualname__}"
    if isinstance(value, torch.Tensor):
        found = f"a tensor of {value.dtype}, {value.layout}".replace("torch.", "")
        if value.layout is torch.strided and not value.is_quantized:
            tensor = value.detach().cpu()
            with suppress(TypeError, RuntimeError):  # numpy has no numbers of 8 bits and less
                return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).resolve_conj().numpy().copy()
    raise Refused(
        f"{type(network).__name__}: its state cannot be stored: {name} is {found}; allowed are dense tensors of "
        "numbers that numpy has, as weights or buffers (register_buffer)"
    )


def load_arrays(network: nn.Module, arrays: Mapping[str, Any]) -> None:
    """Set a network's weights and buffers from the arrays that `to_arrays` returned.

    Raises:
        StorageError: the arrays belong to another network.
    """
    import torch

    load_tensors(network, {name: torch.tensor(array) for name, array in arrays.items()})


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set a network's weights and buffers; layers that a LightningModule makes late are made first.

    Raises:
        StorageError: the tensors belong to another network.
    """
    if tensors.keys() - network.state_dict().keys():
        make_late_layers(network)
    wanted, tensors = network.state_dict(), dict(tensors)
    for name, tensor in tensors.items():  # files store scalars as arrays of one number
        if name in wanted and wanted[name].ndim == 0 and tensor.numel() == 1:
            tensors[name] = tensor.reshape(())
    _load(network, tensors)


def make_late_layers(network: nn.Module, seed: int = 0) -> None:
    """Call the hooks in which a LightningModule may make layers, in Lightning's order; it has no trainer then."""
    if is_lightning(type(network)):
        hooks: Any = network
        with local_chance("cpu"):
            seed_global(derive(seed, "initialise"))
            hooks.setup("fit")
            hooks.configure_model()


def checksum_weights(network: nn.Module) -> dict[str, int]:
    """Return a checksum of each weight and buffer, without the statistics that forward passes alone change."""
    arrays = to_arrays(network).items()
    return {name: zlib.crc32(array) for name, array in arrays if name.rpartition(".")[2] not in RUNNING_STATISTICS}


def _load(network: nn.Module, tensors: Mapping[str, Any], assign: bool = False) -> None:
    try:
        strict = getattr(network, "strict_loading", True)  # a LightningModule may leave weights out of its state
        network.load_state_dict(tensors, strict=bool(strict), assign=assign)
    except RuntimeError as error:
        raise StorageError(f"the stored arrays do not fit the network of these settings: {error}") from error


def restore(model: Model, input_shape: tuple[int, ...], classes: int, arrays: Mapping[str, Any]) -> nn.Module:
    """Rebuild a model's network from `to_arrays`' arrays, on the CPU.

    Whatever size the settings ask for, the network takes no more memory than the arrays: it is built without memory
    first, and then gets copies of the arrays. (A network that a user's code makes is built for real.)

    Args:
        model: its networks keep all their numbers in `state_dict`, unless it rebuilds them itself.

    Raises:
        StorageError: the arrays belong to another network.
        Refused: the network cannot be made.
    """
    import torch

    if has_capability(model, Rebuilds):
        return restore_built(partial(model.rebuild, input_shape, classes), arrays)
    with torch.device("meta"):
        network = model.build(input_shape, classes)
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    for name, wanted in network.state_dict().items():
        if name in tensors and tensors[name].dtype != wanted.dtype:
            raise StorageError(f"the stored {name} holds {tensors[name].dtype}, the network's {wanted.dtype}")
    _load(network, tensors, assign=True)
    return network


def restore_built(build: Callable[[], nn.Module], arrays: Mapping[str, Any]) -> nn.Module:
    """Return a network that is built for real, with the weights and buffers of `to_arrays`' arrays, on the CPU.

    Raises:
        StorageError: the arrays belong to another network.
    """
    network = initialise(build, seed=0)
    load_arrays(network, arrays)
    return network


def stack(networks: Sequence[nn.Module], input_shape: tuple[int, ...], classes: int) -> Callable[[Floats], Floats]:
    """Return a function, inputs -> probs_MNC (float32), of networks of one architecture.

    It evaluates them in one pass if they can be stacked, or else one after the other. Its result equals that of
    `predict_probs` for each network, to float tolerance, and it raises the same errors.
    """
    import torch

    from distens.training.cost import activations
    from distens.training.stacked import NetworkStack, Unstackable

    device = next(networks[0].parameters()).device
    example = torch.zeros((2, *input_shape))
    try:
        together = NetworkStack(networks, example, device, learns=False) if len(networks) > 1 else None
    except Unstackable:
        together = None
    if together is None:
        return lambda inputs: np.stack([predict_probs(network, inputs, classes) for network in networks])
    row_bytes = 4 * len(networks) * activations(networks[0].eval(), example)
    step = min(STACKED_ROWS, max(16, STACKED_BYTES // row_bytes))

    def probabilities(inputs: Floats) -> Floats:
        out_MNC = np.empty((len(together), len(inputs), classes), dtype=np.float32)
        with torch.inference_mode(), local_chance(device.type):
            for first in range(0, len(inputs), step):
                rows = torch.tensor(np.asarray(inputs[first : first + step], dtype=np.float32)).to(device)
                logits_MCN = together.forward(rows.expand(len(together), *rows.shape))
                probs_MNC = torch.softmax(logits_MCN, dim=1).transpose(1, 2)
                out_MNC[:, first : first + len(rows)] = probs_MNC.cpu().numpy()
        if not np.isfinite(out_MNC).all():
            raise Diverged("a network's predictions are not finite")
        return out_MNC

    return probabilities


def predict_probs(network: nn.Module, inputs: Floats, classes: int) -> Floats:
    """Return probs_NC (float32), computed on the network's device.

    Raises:
        Diverged: a probability is not finite.
        Refused: the network's outputs are not logits_NC.
    """
    import torch

    return _predicted(network, inputs, classes, lambda logits_NC: torch.softmax(logits_NC, dim=1))


def outputs(network: nn.Module, inputs: Floats, count: int) -> Floats:
    """Return the network's outputs_NK (float32), K = `count`, computed on its device.

    Raises:
        Diverged: an output is not finite.
        Refused: the outputs are not of shape (N, K).
    """
    return _predicted(network, inputs, count, lambda outputs_NK: outputs_NK)


def raw_outputs(network: nn.Module, inputs: Floats, count: int) -> Floats:
    """Return outputs_NK (float32) of a few rows, finite or not; random numbers are the same ones in every call.

    Raises:
        Refused: the outputs are not of shape (N, K).
    """
    import torch

    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    with torch.inference_mode(), local_chance(device.type):
        seed_global(0, device.type)
        found = network.eval()(torch.tensor(np.asarray(inputs, dtype=np.float32)).to(device))
        return check_outputs(network, found, len(inputs), count).float().cpu().numpy()


def _predicted(network: nn.Module, inputs: Floats, classes: int, link: Callable[[Tensor], Tensor]) -> Floats:
    import torch

    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    if network.training:
        network.eval()
    out_NC = np.empty((len(inputs), classes), dtype=np.float32)
    with torch.inference_mode(), local_chance(device.type):
        for first in range(0, len(inputs), PREDICT_ROWS):
            rows = torch.tensor(np.asarray(inputs[first : first + PREDICT_ROWS], dtype=np.float32)).to(device)
            logits_NC = check_outputs(network, network(rows), len(rows), classes)
            out_NC[first : first + len(rows)] = link(logits_NC.float()).cpu().numpy()
    if not np.isfinite(out_NC).all():
        raise Diverged("the network's predictions are not finite")
    return out_NC

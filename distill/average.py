"""The trained weights and their running average, whole or divided between processes (FSDP2, DeepSpeed ZeRO)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from distill.errors import require


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts. Collective where it is divided (FSDP2)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, moved and divided as `other` of the same shape is. Collective where that is divided."""
    tensor = tensor.to(other.device)
    return distribute_tensor(tensor, other.device_mesh, other.placements) if isinstance(other, DTensor) else tensor


def stretch_scalars(model: nn.Module) -> None:
    """Make scalar parameters vectors of one, in place: neither FSDP2 nor DeepSpeed can divide or send a scalar."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                setattr(module, name, nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad))


@contextlib.contextmanager
def gathered(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, the parameters that DeepSpeed's ZeRO-3 divides are whole. Collective there; nothing elsewhere."""
    divided = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not divided:
        yield
        return
    with require("deepspeed", extra="deepspeed").zero.GatheredParameters(divided):
        yield


class Average:
    """Exponential running average of a module's weights, in float32.

    Under FSDP2 each process averages its own part; under ZeRO-3, whose parts have no shape, each keeps the whole.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the weights as they are. `decay`: share of the old average that a step keeps."""
        self.decay = decay
        with gathered(model.parameters()):
            self.weights = {name: _copy(tensor) for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model; young averages move faster."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with gathered(model.parameters()):
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    self.weights[name].lerp_(tensor.detach().to(self.weights[name].dtype), 1 - decay)
                else:
                    self.weights[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        """The average, whole. Collective under FSDP2."""
        return {name: whole(tensor) for name, tensor in self.weights.items()}

    def load_state(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave, divided in any way. Collective under FSDP2."""
        self.weights = {
            name: divided_like(weights[name].reshape(tensor.shape), tensor) for name, tensor in self.weights.items()
        }


def _copy(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return copy.float() if copy.is_floating_point() else copy


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Float32 weights of a module, whole, on every process. Collective where they are divided."""
    with gathered(model.parameters()):
        return {name: whole(_copy(tensor)) for name, tensor in model.state_dict().items()}

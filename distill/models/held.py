"""Modules that are used but not owned: frozen networks and body models inside a trained one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Generic, TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Held(nn.Module, Generic[Module]):
    """Holds a module outside PyTorch's module tree, without gradients and always in eval mode.

    Its weights appear in no `parameters()`, optimiser, `state_dict()`, EMA or gradient bucket of the owner. It
    follows the owner to a device and keeps its own dtype.
    """

    def __init__(self, module: Module) -> None:
        super().__init__()
        self._held = (module.requires_grad_(False).eval(),)  # a tuple hides it from nn.Module

    @property
    def module(self) -> Module:
        """What is held."""
        return self._held[0]

    def train(self, mode: bool = True) -> Held[Module]:
        """Stays in eval mode whatever is asked."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Held[Module]:
        probe = next(chain(self.module.parameters(), self.module.buffers()))
        self.module.to(fn(probe.new_empty(0)).device)
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Held[Module]:
        return self  # shared by every copy of its owner (EMA, evaluation)

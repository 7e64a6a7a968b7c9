"""Where accelerate is configured: one process or many, plain, FSDP2 or DeepSpeed, as the launcher says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    gather_object,
)

from distill.errors import FootfallError, is_installed
from distill.train_config import TrainConfig


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The only place where accelerate is configured; everything else comes from the launcher.

    Raises:
        FootfallError: the launcher started several processes that do not see each other, FSDP's first version was
            asked for, or the tracker is not installed.
    """
    _check_tracker(config.tracker)
    has_cuda = torch.cuda.is_available()
    wants_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
    fsdp = _fsdp_plugin() if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true" else None
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    if wants_deepspeed and not has_cuda:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    folder = Path(config.out) / config.name
    accelerator = Accelerator(
        cpu=not has_cuda and not wants_deepspeed,
        gradient_accumulation_steps=config.optim.accumulate,
        log_with=None if config.tracker == "none" else config.tracker,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "log")),
        kwargs_handlers=handlers,
        fsdp_plugin=fsdp,
    )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world:
        raise FootfallError(
            "accelerate launch", got=f"{world} processes that each believe to be {accelerator.num_processes}",
            expected="processes that work together", do="on CPUs use configs/accelerate/two_cpu_processes.yaml",
        )  # fmt: skip
    if fsdp is not None:
        _set_fsdp(accelerator, fsdp)
    return accelerator


def _fsdp_plugin() -> FullyShardedDataParallelPlugin:
    """FSDP as the launcher's environment says.

    Loading by the main process alone would move the frozen backbone, which FSDP does not see, to the meta device.
    """
    plugin = FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=False)
    if plugin.fsdp_version != 2:
        raise FootfallError(
            "FSDP", got=f"fsdp_version {plugin.fsdp_version}", expected="fsdp_version 2",
            do="use configs/accelerate/fsdp.yaml",
        )  # fmt: skip
    return plugin


def _set_fsdp(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Weights stay float32 and autocast computes in bfloat16; FSDP's own policy would round the labels as well.

    accelerate turns FSDP on for accelerators only; torch's FSDP2 runs on CPUs over gloo as well, by the same calls.
    """
    plugin.mixed_precision_policy = None
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        AcceleratorState._shared_state["fsdp_plugin"] = plugin
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.FSDP


def _check_tracker(tracker: str) -> None:
    """accelerate would leave a tracker out silently whose package is missing."""
    if tracker != "none" and not is_installed(tracker):
        raise FootfallError(
            f"tracker={tracker}", got="not installed", expected=f"the package {tracker}",
            do=f"run: pip install {tracker}, or set tracker=none",
        )  # fmt: skip


def sharding_of(accelerator: Accelerator) -> str:
    """How weights and optimiser are divided between processes: "none", "fsdp", "zero2" or "zero3" (also zero1)."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return f"zero{accelerator.state.deepspeed_plugin.zero_stage}"
    return "fsdp" if accelerator.distributed_type == DistributedType.FSDP else "none"


def raise_together(accelerator: Accelerator, error: FootfallError | None) -> None:
    """Collective: if any process has an error, every process raises it; none is left waiting for the others."""
    if accelerator.num_processes == 1:
        if error is not None:
            raise error
        return
    mine = error and {"what": error.what, "got": str(error.got), "expected": str(error.expected), "do": error.do}
    errors = [entry for entry in gather_object([mine]) if entry]
    if errors:
        raise FootfallError(**{**errors[0], "got": "; ".join(dict.fromkeys(entry["got"] for entry in errors))})

"""The training loop: read, step, log, evaluate, save. It knows nothing of what the task computes.

One process or many (`accelerate launch`): every process reads its own part of the shards, and all make the
same number of steps. Randomness is a function of seed, epoch and sample, so a resumed run makes the same
weights, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    set_seed,
)
from torch import Tensor, nn

from distill import checkpoint
from distill.checkpoint import Position
from distill.config import config_to_dict, save_config
from distill.data import Windows, collate, to_device
from distill.errors import FootfallError
from distill.feature_cache import FeatureCache, identity_of
from distill.files import write_json
from distill.models.student import Student
from distill.shards.reader import ShardReader, find_shards
from distill.task import StudentTask
from distill.train_config import OptimConfig, TrainConfig


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The only place where accelerate is configured; everything else comes from the launcher.

    Raises:
        FootfallError: the launcher started several processes that do not see each other.
    """
    wants_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
    has_cuda = torch.cuda.is_available()
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
    )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world:
        raise FootfallError(
            "accelerate launch", got=f"{world} processes that each believe to be {accelerator.num_processes}",
            expected="processes that work together", do="on CPUs use configs/accelerate/two_cpu_processes.yaml",
        )  # fmt: skip
    return accelerator


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Linear warm-up, then a half cosine from `lr` to `final_lr`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class Average:
    """Exponential running average of the trained weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model; young averages move faster."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor.detach().to(self.weights[name]), 1 - decay)
            else:
                self.weights[name].copy_(tensor)


class Trainer:
    """One run. Build it, then call `train`."""

    def __init__(self, config: TrainConfig) -> None:
        """Load data and student, check everything that can be checked, restore the last state if asked to."""
        self.config = config
        self.folder = Path(config.out) / config.name
        shards = find_shards(config.data.shards)
        held_out = find_shards(config.data.held_out_shards) if config.data.held_out_shards else None
        state = checkpoint.find_state(self.folder)
        if state is not None and not config.resume:
            raise FootfallError(
                f"run {self.folder}", got="a checkpoint of an earlier run", expected="a new run or resume=true",
                do="add resume=true to go on, or choose another name",
            )  # fmt: skip
        self.accelerator = make_accelerator(config)
        set_seed(config.seed)
        self.student = Student.from_pretrained(config.init_from) if config.init_from else Student(config.student)
        self.student.train()
        self.average = Average(self.student, config.optim.ema)
        self.optimiser = torch.optim.AdamW(_groups(self.student, config.optim), lr=config.optim.lr)
        self.cache = self._cache()
        self._prepare()
        self.position = Position()
        self.step, self.seconds = 0, 0.0
        self.data = self._windows(shards.urls, training=True)
        self.held_out = self._windows(held_out.urls, training=False) if held_out else None
        if self.held_out is not None and next(iter(self._loader(self.held_out)), None) is None:
            raise _too_few("held_out_shards", config)
        if state is not None:
            self._restore(state)

    def _prepare(self) -> None:
        plugin = self.accelerator.state.deepspeed_plugin
        if plugin is not None:  # it cannot see our loader
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = self.config.data.batch_size
            plugin.deepspeed_config["gradient_accumulation_steps"] = self.config.optim.accumulate
            plugin.deepspeed_config["gradient_clipping"] = self.config.optim.clip_norm
            self.accelerator.gradient_accumulation_steps = self.config.optim.accumulate
        task = StudentTask(self.student, self.config.loss).to(self.accelerator.device)
        task.cache = self.cache
        self.average.weights = {k: v.to(self.accelerator.device) for k, v in self.average.weights.items()}
        self.task, self.optimiser = self.accelerator.prepare(task, self.optimiser)
        self.sharded = self.accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)

    def _windows(self, urls: list[str], *, training: bool) -> Windows:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        reader = ShardReader(urls, seed=self.config.seed, rank=rank, world=world, shuffle=training)
        return Windows(
            reader, self.config.data, self.student.network_size, seed=self.config.seed, training=training,
            patch=self.student.backbone.module.patch_size, cache=self.cache,
        )  # fmt: skip

    def _cache(self) -> FeatureCache | None:
        """The cache of frozen features, if one is asked for; every process may use an equal part of its budget."""
        if not self.config.data.feature_cache:
            return None
        backbone = self.student.backbone.module
        points = self.config.loss.scene_scale > 0 and backbone.has_points
        identity = identity_of(backbone, precision=self.accelerator.mixed_precision, points=points)
        folder, budget = Path(self.config.data.feature_cache), self.config.data.feature_cache_gb
        return FeatureCache(folder, budget, identity, writers=self.accelerator.num_processes)

    def train(self) -> None:
        """Run to `config.steps`."""
        if self.accelerator.is_main_process:
            (self.folder / "log").mkdir(parents=True, exist_ok=True)
            save_config(self.folder / "log" / "config.yaml", self.config)
            self._announce()
        self.accelerator.init_trackers(self.config.name)
        batches = self._batches()
        started, since = time.perf_counter() - self.seconds, time.perf_counter()
        while self.step < self.config.steps:
            losses, report = self._one_step(batches)
            self.step += 1
            self.seconds = time.perf_counter() - started
            if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                rate = self.config.log_every / (time.perf_counter() - since)
                since = time.perf_counter()
                self._log(losses, report, rate)
            if self.held_out is not None and self.step % self.config.evaluate_every == 0:
                self._evaluate()
            if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                self.save()
        self.accelerator.end_training()

    def _one_step(self, batches: Iterator[dict[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One optimiser step over `accumulate` batches."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.config.steps, self.config.optim)
        for _ in range(self.config.optim.accumulate):
            batch = next(batches)
            with self.accelerator.accumulate(self.task):
                losses, report = self.task(to_device(batch, self.accelerator.device))
                total = torch.stack(list(losses.values())).sum()
                if not torch.isfinite(total):
                    raise _not_finite(losses, batch["name"], self.step)
                self.accelerator.backward(total)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.task.parameters(), self.config.optim.clip_norm)
                self.optimiser.step()
                self.optimiser.zero_grad()
        if not self.sharded:
            self.average.update(self.student, self.step)
        return losses, report

    def _batches(self) -> Iterator[dict[str, Any]]:
        """Endless batches from the current position on; each epoch in an order of its own."""
        while True:
            self.data.reader.set_epoch(self.position.epoch)
            start = self.position.batch
            for index, batch in enumerate(self._loader(self.data)):
                if index >= start:  # a resumed run reads what was used already, and leaves it
                    self.position.batch = index + 1
                    yield batch
            if self.position.batch == 0:
                raise _too_few("shards", self.config)
            self.position = Position(epoch=self.position.epoch + 1)

    def _loader(self, windows: Windows) -> torch.utils.data.DataLoader[Any]:
        return torch.utils.data.DataLoader(
            windows, batch_size=self.config.data.batch_size, collate_fn=collate, drop_last=True,
            num_workers=self.config.data.workers, pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),  # a loader would otherwise draw from the state that a resume restores
        )  # fmt: skip

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Mean losses on held-out windows, over all processes."""
        assert self.held_out is not None
        self.task.eval()
        rows = []
        for index, batch in enumerate(self._loader(self.held_out)):
            if index >= self.config.evaluate_batches:
                break
            losses, report = self.task(to_device(batch, self.accelerator.device))
            rows.append({**{f"loss/{k}": v for k, v in losses.items()}, **report})
        self.task.train()
        if rows:
            means = {f"held_out/{k}": torch.stack([row[k] for row in rows]).mean() for k in rows[0]}
            self._write_log({k: self.accelerator.reduce(v, "mean").item() for k, v in means.items()})

    def _log(self, losses: dict[str, Tensor], report: dict[str, Tensor], steps_per_s: float) -> None:
        total = torch.stack(list(losses.values())).sum().detach()
        tensors = {"loss": total, **{f"loss/{k}": v.detach() for k, v in losses.items()}, **report}
        row = {name: self.accelerator.reduce(value, "mean").item() for name, value in tensors.items()}
        row["lr"] = learning_rate(self.step - 1, self.config.steps, self.config.optim)
        row["windows_per_s"] = steps_per_s * self._windows_per_step
        row["seconds"] = self.seconds
        self._write_log(row)
        if self.accelerator.is_main_process:
            left = (self.config.steps - self.step) / steps_per_s
            print(
                f"step {self.step}/{self.config.steps}  loss {row['loss']:.4f}  lr {row['lr']:.1e}  "
                f"{row['windows_per_s']:.1f} windows/s  about {left / 60:.1f} min left",
                file=sys.stderr, flush=True,
            )  # fmt: skip

    @property
    def _windows_per_step(self) -> int:
        return self.config.data.batch_size * self.accelerator.num_processes * self.config.optim.accumulate

    def _write_log(self, row: dict[str, float]) -> None:
        self.accelerator.log(row, step=self.step)
        if self.accelerator.is_main_process:
            with (self.folder / "log" / "log.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": self.step, **row}) + "\n")

    def _announce(self) -> None:
        trained = sum(p.numel() for p in self.student.parameters())
        frozen = sum(p.numel() for p in self.student.backbone.module.parameters())
        config, count = self.config, self.accelerator.num_processes
        print(
            f"run {self.folder}: {trained / 1e6:.2f} M trained parameters on {frozen / 1e6:.2f} M frozen ones\n"
            f"windows per step = {config.data.batch_size} per process x {count} processes x "
            f"{config.optim.accumulate} accumulated = {self._windows_per_step}",
            file=sys.stderr,
        )  # fmt: skip

    def save(self) -> None:
        """Write a checkpoint. Collective: every process must call it."""
        new = self.folder / "state.new"
        if self.accelerator.is_main_process:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        rank = self.accelerator.process_index
        if self.sharded:
            self.accelerator.save_state(str(new / "accelerate"))
        checkpoint.write_rng(new / f"rng-{rank}.safetensors")
        write_json(new / f"position-{rank}.json", asdict(self.position))
        self.accelerator.wait_for_everyone()
        heads = self._heads()
        if self.accelerator.is_main_process:
            if not self.sharded:
                checkpoint.write_tensors(new / "model.safetensors", heads)
                checkpoint.write_tensors(new / "average.safetensors", self.average.weights)
                checkpoint.write_optimiser(new, self.optimiser)
            write_json(new / "training.json", {
                "format": checkpoint.STATE_FORMAT, "step": self.step, "seconds": self.seconds,
                "processes": self.accelerator.num_processes, "config": config_to_dict(self.config),
            })  # fmt: skip
            self._save_student(heads if self.sharded else self.average.weights)
            checkpoint.put_in_place(new, self.folder)
        self.accelerator.wait_for_everyone()

    def _heads(self) -> dict[str, Tensor]:
        """Trained weights, gathered where they are divided."""
        if not self.sharded:
            return self.student.state_dict()
        whole = self.accelerator.get_state_dict(self.task)
        return {k.removeprefix("student."): v for k, v in whole.items() if k.startswith("student.")}

    def _save_student(self, weights: dict[str, Tensor]) -> None:
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, and replaced
            saved = Student(self.student.config, self.student.backbone.module)
        saved.load_state_dict({k: v.float() for k, v in weights.items()})
        saved.save_pretrained(self.folder / "pretrained")

    def _restore(self, state: Path) -> None:
        training = checkpoint.read_training(state)
        for change in checkpoint.compare_configs(training["config"], config_to_dict(self.config)):
            if self.accelerator.is_main_process:
                print(f"resume: {change}", file=sys.stderr)
        self.step, self.seconds = training["step"], training["seconds"]
        if self.accelerator.is_main_process:
            checkpoint.cut_log(self.folder / "log" / "log.jsonl", self.step)
        if self.sharded:
            self.accelerator.load_state(str(state / "accelerate"))
        else:
            self.student.load_state_dict(checkpoint.read_weights(state / "model.safetensors"))
            average = checkpoint.read_weights(state / "average.safetensors")
            self.average.weights = {k: v.to(self.accelerator.device) for k, v in average.items()}
            checkpoint.read_optimiser(state, self.optimiser)
        rank = self.accelerator.process_index
        if training["processes"] == self.accelerator.num_processes:
            checkpoint.read_rng(state / f"rng-{rank}.safetensors")
            self.position = Position(**json.loads((state / f"position-{rank}.json").read_text()))
        elif self.accelerator.is_main_process:
            print(
                f"resume: {training['processes']} -> {self.accelerator.num_processes} processes "
                "(the epoch starts again, in another division)", file=sys.stderr,
            )  # fmt: skip


def _groups(student: Student, config: OptimConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices, none on biases, norms and single vectors."""
    matrices = [p for p in student.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in student.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _too_few(shards: str, config: TrainConfig) -> FootfallError:
    return FootfallError(
        f"data.{shards}={getattr(config.data, shards)}", got="fewer windows than one batch per process",
        expected=f"at least {config.data.batch_size}",
        do="label more clips, lower data.batch_size, or use fewer processes",
    )  # fmt: skip


def _not_finite(losses: dict[str, Tensor], names: list[str], step: int) -> FootfallError:
    bad = [name for name, value in losses.items() if not torch.isfinite(value)]
    return FootfallError(
        f"step {step}", got=f"a loss that is not finite ({', '.join(bad)}) on {', '.join(names)}",
        expected="finite losses", do="lower optim.lr, or look at those samples; the last checkpoint is untouched",
    )  # fmt: skip

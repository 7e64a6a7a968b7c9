"""The training loop: read, step, log, evaluate, save. It knows nothing of what the task computes.

One process or many (`accelerate launch`): every process reads its own part of the shards, and all make the
same number of steps. Randomness is a function of seed, epoch and sample, so a resumed run makes the same
weights, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from distill import checkpoint
from distill.average import Average, stretch_scalars, whole, whole_weights
from distill.batches import load_batches
from distill.checkpoint import Position
from distill.config import config_to_dict, save_config
from distill.data import Windows, to_device
from distill.errors import FootfallError
from distill.feature_cache import FeatureCache, identity_of
from distill.files import write_json
from distill.held_out import METRICS, world_errors
from distill.launch import make_accelerator, raise_together, sharding_of
from distill.models.pretrained import write_card
from distill.models.student import Student
from distill.shards.reader import ShardReader
from distill.shards.sources import ShardSet
from distill.shards.split import find_sides
from distill.task import StudentTask
from distill.train_config import OptimConfig, TrainConfig
from distill.training_record import note_start

_AUTOCAST: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """Linear warm-up, then a half cosine from `lr` to `final_lr`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class Trainer:
    """One run. Build it, then call `train`."""

    def __init__(self, config: TrainConfig) -> None:
        """Load data and student, check everything that can be checked, restore the last state if asked to."""
        self.config = config
        self.folder = Path(config.out) / config.name
        shards, held_out = find_sides(config.data)
        state = checkpoint.check_folder(self.folder, resume=config.resume)
        self.accelerator = make_accelerator(config)
        self.sharding = sharding_of(self.accelerator)
        set_seed(config.seed)
        self.student = self._make_student()
        self.student.train()
        training = self._read_training(state)
        if state is not None:  # before anything is divided between processes
            self.student.load_state_dict(checkpoint.read_weights(state / "model.safetensors"))
        self.shapes = {name: tensor.shape for name, tensor in self.student.state_dict().items()}
        if self.sharding != "none":
            stretch_scalars(self.student)
        self.optimiser = torch.optim.AdamW(_groups(self.student, config.optim), lr=config.optim.lr)
        self.cache = self._cache()
        self._prepare()
        self.average = Average(self.student, config.optim.ema)
        self.position = Position()
        self.step, self.seconds = 0, 0.0
        self.data = self._windows(shards, training=True)
        self.held_out = self._windows(held_out, training=False) if held_out else None
        if state is not None:
            self._restore(state, training)
        self._check_data()

    def _make_student(self) -> Any:
        """What is trained: a module with `config`, `backbone`, `network_size` and `save_pretrained`."""
        return Student.from_pretrained(self.config.init_from) if self.config.init_from else Student(self.config.student)

    def _make_task(self) -> nn.Module:
        """The student with its losses: a batch in, losses and a report out."""
        task = StudentTask(self.student, self.config.loss)
        task.cache = self.cache
        return task

    def _prepare(self) -> None:
        plugin = self.accelerator.state.deepspeed_plugin
        if plugin is not None:  # it cannot see our loader
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = self.config.data.batch_size
            plugin.deepspeed_config["gradient_accumulation_steps"] = self.config.optim.accumulate
            plugin.deepspeed_config["gradient_clipping"] = self.config.optim.clip_norm
            self.accelerator.gradient_accumulation_steps = self.config.optim.accumulate
        task = self._make_task().to(self.accelerator.device)
        self.task, self.optimiser = self.accelerator.prepare(task, self.optimiser)

    def _windows(self, shards: ShardSet, *, training: bool) -> Windows:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        reader = ShardReader(
            shards.urls, seed=self.config.seed, rank=rank, world=world, shuffle=training, wanted=shards.wanted
        )
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

    def _check_data(self) -> None:
        """Take the first batch, and one held out: every process learns whether all have enough."""
        self.batches, error = self._batches(), None
        try:
            if self.held_out is not None and next(self._load(self.held_out), None) is None:
                raise _too_few("held_out_shards", self.config)
            self.batches = chain([next(self.batches)], self.batches)
        except FootfallError as found:
            error = found
        raise_together(self.accelerator, error)

    def train(self) -> None:
        """Run to `config.steps`."""
        if self.accelerator.is_main_process:
            checkpoint.cut_log(self.folder / "log" / "log.jsonl", self.step)
            (self.folder / "log").mkdir(parents=True, exist_ok=True)
            save_config(self.folder / "log" / "config.yaml", self.config)
            note_start(self.folder, step=self.step, processes=self.accelerator.num_processes)
            self._announce()
        self.accelerator.init_trackers(self.config.name)
        started, since = time.perf_counter() - self.seconds, time.perf_counter()
        while self.step < self.config.steps:
            row = self._one_step(self.batches)
            self.step += 1
            self.seconds = time.perf_counter() - started
            if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                rate = self.config.log_every / (time.perf_counter() - since)
                since = time.perf_counter()
                self._log(row, rate)
            if self.held_out is not None and self.step % self.config.evaluate_every == 0:
                self._evaluate()
            if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                self.save()
        self.accelerator.end_training()

    def _one_step(self, batches: Iterator[dict[str, Any]]) -> dict[str, Tensor]:
        """One optimiser step over `accumulate` batches; returns what is logged, means over those batches."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.config.steps, self.config.optim)
        rows: dict[str, list[Tensor]] = defaultdict(list)
        names: list[str] = []
        for _ in range(self.config.optim.accumulate):
            batch = next(batches)
            names += batch["name"]
            with self.accelerator.accumulate(self.task):
                with self._autocast():
                    losses, report = self.task(to_device(batch, self.accelerator.device))
                total = torch.stack(list(losses.values())).sum()
                self._require_finite(losses, total, batch["name"])
                self.accelerator.backward(total)
                if self.accelerator.sync_gradients:
                    self._clip(rows, names)
                self.optimiser.step()
                self.optimiser.zero_grad()
            for name, value in {"loss": total, **{f"loss/{k}": v for k, v in losses.items()}, **report}.items():
                rows[name].append(value.detach())
        self.average.update(self.student, self.step)
        return {name: torch.stack(values).mean() for name, values in rows.items()}

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        """The launcher's precision, also where accelerate leaves it to FSDP's or DeepSpeed's own casts."""
        dtype = _AUTOCAST.get(self.accelerator.mixed_precision)
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.accelerator.device.type, dtype)

    def _require_finite(self, losses: dict[str, Tensor], total: Tensor, names: list[str]) -> None:
        """Stop all processes before the step if any has a loss that is not finite."""
        bad = (~torch.isfinite(total.detach())).float()
        if self.accelerator.reduce(bad, "sum").item() > 0:
            raise_together(self.accelerator, _not_finite(losses, names, self.step) if bad else None)

    def _clip(self, rows: dict[str, list[Tensor]], names: list[str]) -> None:
        """Clip the gradient's norm (DeepSpeed does it inside its step), and stop if it is not finite."""
        norm = self.accelerator.clip_grad_norm_(self.task.parameters(), self.config.optim.clip_norm)
        if not isinstance(norm, Tensor):
            return
        norm = whole(norm)
        if self.accelerator.scaler is None and not torch.isfinite(norm):  # float16's scaler expects some
            raise FootfallError(
                f"step {self.step}", got=f"a gradient that is not finite on {', '.join(names)}",
                expected="finite gradients", do="lower optim.lr, or look at those samples",
            )  # fmt: skip
        rows["gradient_norm"].append(norm.detach())

    def _batches(self) -> Iterator[dict[str, Any]]:
        """Endless batches from the current position on; each epoch in an order of its own."""
        while True:
            self.data.reader.set_epoch(self.position.epoch)
            start = self.position.batch
            for index, batch in enumerate(self._load(self.data)):
                if index >= start:  # a resumed run reads what was used already, and leaves it
                    self.position.batch = index + 1
                    yield batch
            if self.position.batch == 0:
                raise _too_few("shards", self.config)
            self.position = Position(epoch=self.position.epoch + 1)

    def _load(self, windows: Windows) -> Iterator[dict[str, Any]]:
        return load_batches(
            windows, batch_size=self.config.data.batch_size, workers=self.config.data.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )  # fmt: skip

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Mean losses on held-out windows, and world errors of streamed held-out samples, over all processes."""
        assert self.held_out is not None
        self.task.eval()
        rows = []
        for batch in islice(self._load(self.held_out), self.config.evaluate_batches):
            with self._autocast():
                losses, report = self.task(to_device(batch, self.accelerator.device))
            rows.append({**{f"loss/{k}": v for k, v in losses.items()}, **report})
        self.task.train()
        if isinstance(self.task, FSDPModule):  # without a backward pass it stays whole
            self.task.reshard()
        # Every process has at least one batch (`_check_data`), and the same terms.
        means = {f"held_out/{k}": torch.stack([row[k] for row in rows]).mean() for k in rows[0]}
        found = {k: self.accelerator.reduce(v, "mean").item() for k, v in means.items()}
        self._write_log(found | (self._world_errors() if self.config.evaluate_clips else {}))

    def _world_errors(self) -> dict[str, float]:
        """Errors in the world of the averaged student, which is the one that is saved."""
        assert self.held_out is not None
        device = self.accelerator.device
        student = self._averaged_student().to(device).eval()
        sums = world_errors(
            student, self.held_out.reader.urls, samples=self.config.evaluate_clips,
            rank=self.accelerator.process_index, world=self.accelerator.num_processes,
            wanted=self.held_out.reader.wanted,
        )  # fmt: skip
        *errors, frames = self.accelerator.reduce(sums.float().to(device), "sum").tolist()
        if frames == 0:
            return {}
        return {f"held_out/{name}": error / frames for name, error in zip(METRICS, errors, strict=True)}

    def _log(self, values: dict[str, Tensor], steps_per_s: float) -> None:
        row = {name: self.accelerator.reduce(value, "mean").item() for name, value in values.items()}
        row["lr"] = learning_rate(self.step - 1, self.config.steps, self.config.optim)
        row["windows_per_s"] = steps_per_s * self._windows_per_step
        row["seconds"] = self.seconds
        damaged = torch.tensor(float(self.data.reader.skipped), device=self.accelerator.device)
        row["damaged"] = self.accelerator.reduce(damaged, "sum").item()  # pieces left out so far, all workers
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
        trained = sum(p.numel() for p in self.average.weights.values())
        frozen = sum(p.numel() for p in self.student.backbone.module.parameters())
        config, count, shards = self.config, self.accelerator.num_processes, len(self.data.reader.urls)
        readers = count * max(config.data.workers, 1)
        lines = [
            f"run {self.folder}: {trained / 1e6:.2f} M trained parameters on {frozen / 1e6:.2f} M frozen ones",
            f"windows per step = {config.data.batch_size} per process x {count} processes x "
            f"{config.optim.accumulate} accumulated = {self._windows_per_step}",
            f"precision {self.accelerator.mixed_precision}, sharding {self.sharding}, {self.accelerator.device.type}",
        ]
        if shards < readers:
            lines.append(f"{shards} shards for {readers} readers: each reads all of them and takes every n-th sample")
        print("\n".join(lines), file=sys.stderr, flush=True)

    def save(self) -> None:
        """Write a checkpoint. Collective: every process must call it."""
        new = self.folder / "state.new"
        if self.accelerator.is_main_process:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        rank = self.accelerator.process_index
        checkpoint.write_rng(new / f"rng-{rank}.safetensors")
        write_json(new / f"position-{rank}.json", asdict(self.position))
        heads = {name: tensor.reshape(self.shapes[name]) for name, tensor in whole_weights(self.student).items()}
        averaged = self._averaged_student()
        optimiser = None
        if self.sharding.startswith("zero"):
            self.accelerator.save_state(str(new / "accelerate"))
        else:
            optimiser = checkpoint.optimiser_state(self.optimiser)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            checkpoint.write_tensors(new / "model.safetensors", heads)
            checkpoint.write_tensors(new / "average.safetensors", averaged.state_dict())
            if optimiser is not None:
                checkpoint.write_optimiser(new, *optimiser)
            write_json(new / "training.json", {
                "format": checkpoint.STATE_FORMAT, "step": self.step, "seconds": self.seconds,
                "processes": self.accelerator.num_processes, "sharding": self.sharding,
                "config": config_to_dict(self.config),
            })  # fmt: skip
            averaged.save_pretrained(self.folder / "pretrained")
            self._write_card()
            checkpoint.put_in_place(new, self.folder)
        self.accelerator.wait_for_everyone()

    def _write_card(self) -> None:
        write_card(self.folder / "pretrained", self.folder, step=self.step, seconds=self.seconds)

    def _averaged_student(self) -> Any:
        """A student with the averaged weights, whole, on the CPU. Collective under FSDP."""
        weights = {name: tensor.reshape(self.shapes[name]) for name, tensor in self.average.state().items()}
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, and replaced
            student = type(self.student)(self.student.config, self.student.backbone.module)
        student.load_state_dict(weights)
        return student

    def _read_training(self, state: Path | None) -> dict[str, Any]:
        """`training.json` of the state, once its settings are known to fit; empty for a new run."""
        if state is None:
            if self.config.resume:
                self._say(f"resume: no checkpoint in {self.folder}, a new run starts")
            return {}
        training = checkpoint.read_training(state)
        for change in checkpoint.compare_configs(training["config"], config_to_dict(self.config)):
            self._say(f"resume: {change}")
        return training

    def _restore(self, state: Path, training: dict[str, Any]) -> None:
        """Everything but the weights, which were read before they were divided."""
        self.step, self.seconds = training["step"], training["seconds"]
        self.average.load_state(checkpoint.read_weights(state / "average.safetensors"))
        before, now = training["processes"], self.accelerator.num_processes
        self._restore_optimiser(state, training, same=before == now)
        rank = self.accelerator.process_index if before == now else 0
        self.position = Position(**json.loads((state / f"position-{rank}.json").read_text()))
        if before == now:
            checkpoint.read_rng(state / f"rng-{rank}.safetensors")
            return
        self.position.batch = 0
        self._say(
            f"resume: {before} -> {now} processes (epoch {self.position.epoch} starts again, in another division; "
            "a step has another number of windows unless data.batch_size or optim.accumulate changed with it)"
        )

    def _restore_optimiser(self, state: Path, training: dict[str, Any], *, same: bool) -> None:
        """Moments of the optimiser; DeepSpeed keeps its own, which fit only the same processes and stage."""
        before = training.get("sharding", "none")
        if not self.sharding.startswith("zero") and (state / "optimiser.json").is_file():
            checkpoint.read_optimiser(state, self.optimiser)
        elif self.sharding == before and same:
            self.accelerator.load_state(str(state / "accelerate"))
        else:
            self._say(
                f"resume: sharding {before} on {training['processes']} -> {self.sharding} on "
                f"{self.accelerator.num_processes} processes (the optimiser's moments start anew)"
            )

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            print(text, file=sys.stderr, flush=True)


def _groups(student: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
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

"""Runs cases on clips, each (case, clip) into a JSON file of its own: spread over processes, resumable.

    OUT/rows/CASE/CLIP.json     {format, made_from, case, clip, ..., values}

A row is kept if its `made_from` matches: the clip, the case, the settings and the code. One process takes one clip
through all its cases, because looking at a clip costs more than making it wrong.
"""

from __future__ import annotations

import multiprocessing as mp
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from distill.config import config_hash
from distill.errors import FootfallError
from distill.files import read_json, write_json
from teacher.benchmark.cases import Case, changed
from teacher.benchmark.fast import with_fast
from teacher.benchmark.provenance import code_hash
from teacher.benchmark.scores import clip_values, gap_values, results_of
from teacher.benchmark.track import strained_errors, usual_errors
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.degrade import Degradation, degraded_problem, lost_span
from teacher.optimise.exact import ExactView, exact_view
from teacher.progress import Progress

if TYPE_CHECKING:
    from distill.synthetic import ClipSpec

ROW_FORMAT: Final = "footfall-benchmark-row/1"
Report = Callable[[str, float, str], None]
"""Called with the clip, the fraction of its cases that is done, and a short text."""


@dataclass(kw_only=True)
class Job:
    """One clip and the cases that are still to be run on it."""

    spec: ClipSpec
    cases: list[Case]
    config: OptimiseConfig
    seed: int
    folder: Path
    code: str
    """Hash of the code that rows depend on."""

    def made_from(self, case: Case) -> str:
        """Names what the row of a case was made from."""
        return config_hash(_Origin(self.spec, case, changed(self.config, case.changes), self.seed, self.code))

    def path(self, case: Case) -> Path:
        """File of a row."""
        return self.folder / "rows" / case.name / f"{self.spec.id}.json"

    def stored(self, case: Case) -> dict[str, Any] | None:
        """The row of a case if it is there and still holds."""
        try:
            row = read_json(self.path(case))
        except FootfallError:
            return None
        return row if isinstance(row, dict) and row.get("made_from") == self.made_from(case) else None


@dataclass
class _Origin:
    spec: Any
    case: Case
    config: OptimiseConfig
    seed: int
    code: str


def run_cases(
    specs: Sequence[ClipSpec], cases: Sequence[Case], config: OptimiseConfig, folder: Path, *, seed: int = 0,
    workers: int = 2,
) -> dict[str, dict[str, dict[str, Any]]]:  # fmt: skip
    """Rows by case and clip, those found in `folder` and those that had to be made.

    Args:
        specs: clips. cases: what to do with each. config: of the solve, before a case changes it.
        folder: for the rows. seed: of the errors' draws. workers: processes.
    """
    code = code_hash()
    jobs = [Job(spec=s, cases=list(cases), config=config, seed=seed, folder=folder, code=code) for s in specs]
    rows: dict[str, dict[str, dict[str, Any]]] = {case.name: {} for case in cases}
    left = []
    for job in jobs:
        stored = {case.name: job.stored(case) for case in cases}
        for name, row in stored.items():
            if row is not None:
                rows[name][job.spec.id] = row
        todo = [case for case in cases if stored[case.name] is None]
        if todo:
            left.append(replace(job, cases=todo))
    _spread(left, workers)
    for job in left:
        for case in job.cases:
            row = job.stored(case)
            if row is None:
                raise RuntimeError(f"no row of case {case.name} on clip {job.spec.id}; see the messages above")
            rows[case.name][job.spec.id] = row
    return rows


def _spread(jobs: list[Job], workers: int) -> None:
    """Run all jobs, the longest first."""
    jobs = sorted(jobs, key=lambda job: -job.spec.frames * job.spec.people * len(job.cases))
    progress = Progress(len(jobs), title="benchmark")
    if workers == 1 or len(jobs) <= 1:
        for job in jobs:
            run_job(job, progress.update)
        return
    context = mp.get_context("spawn")
    with context.Manager() as manager:
        messages = manager.Queue()
        with ProcessPoolExecutor(min(workers, len(jobs)), context, _init_worker, (messages,)) as pool:
            futures = [pool.submit(_in_worker, job) for job in jobs]
            _follow(futures, messages, progress)


def _follow(futures: list[Future[None]], messages: Any, progress: Progress) -> None:
    """Show the workers' progress; raise what a worker raised."""
    while True:
        try:
            progress.update(*messages.get(timeout=0.5))
        except queue.Empty:
            for future in [future for future in futures if future.done()]:
                future.result()
                futures.remove(future)
            if not futures:
                return


_messages: Any = None
"""The queue of this worker process, set once by `_init_worker`."""


def _init_worker(messages: Any) -> None:
    global _messages
    import torch

    torch.set_num_threads(1)  # small tensors: processes beside each other, not threads
    _messages = messages


def _in_worker(job: Job) -> None:
    run_job(job, lambda *message: _messages.put(message))


def run_job(job: Job, report: Report) -> None:
    """Take one clip through its cases; writes one file per case."""
    from distill.synthetic import make_clip

    clip = make_clip(job.spec)
    views: dict[str, ExactView] = {}
    for done, case in enumerate(job.cases):
        report(job.spec.id, done / len(job.cases), case.name)
        if case.fast not in views:
            views = {case.fast: exact_view(with_fast(clip, case.fast))}  # one at a time: a view holds all depth maps
        begun = time.perf_counter()
        row = run_case(views[case.fast], job, case)
        row["seconds_in_all"] = round(time.perf_counter() - begun, 3)
        write_json(job.path(case), row)
    report(job.spec.id, 1.0, "done")


def run_case(view: ExactView, job: Job, case: Case) -> dict[str, Any]:
    """One row: make the initial values wrong, solve, score. A solve that fails is a row with the reason."""
    usual = usual_errors(job.spec, job.seed)
    errors = usual if case.strain is None else strained_errors(job.spec, job.seed, case.strain)
    errors = replace(errors, **case.errors)
    row: dict[str, Any] = {
        "format": ROW_FORMAT, "made_from": job.made_from(case), "case": case.name, "clip": job.spec.id,
        "frames": job.spec.frames, "people": job.spec.people, "camera": job.spec.camera, "errors": asdict(errors),
    }  # fmt: skip
    try:
        return row | solve_and_score(view, errors, changed(job.config, case.changes))
    except FootfallError as error:
        return row | {"failed": str(error)}


def solve_and_score(view: ExactView, errors: Degradation, config: OptimiseConfig) -> dict[str, Any]:
    """Seconds, values and verdict of one solve.

    Raises:
        FootfallError: the solve diverged, or there is nothing to solve.
    """
    from teacher.optimise.quality import QualityConfig, judge
    from teacher.optimise.solver import solve

    problem = degraded_problem(view, errors)
    wall, cpu = time.perf_counter(), time.process_time()
    solution = solve(problem, config, lambda fraction, text: None)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    results, measures = results_of(problem, solution, config)
    truth = view.clip.truth
    values = {name: clip_values(truth, result) for name, result in results.items()}
    if errors.lost_frames:
        values["after"] |= gap_values(truth, results["after"], lost_span(len(truth.cameras.timestamps), errors))
    verdict, _ = judge(results["after"], measures["after"], QualityConfig())
    return {
        "seconds": round(seconds, 3), "cpu_seconds": round(cpu_seconds, 3), "values": values["after"],
        "before": values["before"], "given": values["given"], "quality": asdict(verdict),
    }  # fmt: skip

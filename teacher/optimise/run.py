"""The stage `joint`: solve a clip and write its result.

joint/
    meta.json, cameras.npz, motion.npz, scene.ply    the result (`distill.results`)
    measures.npz     agreement with images, scene and itself (`measure`), for the quality stage
    scale.npz        metres_per_unit [T]: metres per unit of the depth stage's maps
    trace.json       convergence, term by term, and the numbers before and after
"""

from __future__ import annotations

from typing import Any

from distill.files import save_arrays, write_json
from distill.results import save_result
from teacher.initialisers.registry import Outcome, Report
from teacher.optimise.assemble import assemble_result, metres_per_unit
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.measure import measure, number
from teacher.optimise.problem import build_problem
from teacher.optimise.solver import solve
from teacher.workspace import ClipFolder


def run(clip: ClipFolder, config: OptimiseConfig, report: Report) -> Outcome:
    """Solve the clip and write the stage's files.

    Raises:
        FootfallError: a stage file is missing or does not fit, nobody is seen, or the solve diverged.
    """
    problem = build_problem(clip)
    solution = solve(problem, config, report)
    before = measure(solution.before, solution.evidence, config)
    after = measure(solution.after, solution.evidence, config)
    result = assemble_result(problem, solution, after, config)
    summary: dict[str, Any] = {
        "before": before.summary(),
        "after": after.summary(),
        "focal_px": [number(problem.cameras.K[0, 0]), number(solution.after.K[0, 0])],
        "metres_per_unit": [number(solution.evidence.unit), number(result.meta["scale"]["metres_per_unit"])],
        "scale_from": solution.evidence.unit_from,
        "world": result.meta["world"],
        "gravity_sd_deg": result.meta["gravity"]["sd_deg"],
        "stature_m": [number(value) for value in after.stature],
    }
    folder = clip.stage_dir("joint")
    after.save(folder)
    save_arrays(folder / "scale.npz", {"metres_per_unit": metres_per_unit(solution)})
    write_json(folder / "trace.json", {"summary": summary, "steps": solution.trace})
    save_result(folder, result)
    return Outcome(summary=summary)

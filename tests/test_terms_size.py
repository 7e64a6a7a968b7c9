"""The size of the solved world: what its uncertainty is made of, by worked cases and on made worlds."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest

from distill.synthetic import ClipSpec, make_clip
from teacher.optimise.config import OptimiseConfig
from teacher.optimise.degrade import Degradation, problem_from_truth
from teacher.optimise.scale import FLOOR_SD, Witness
from teacher.optimise.size import CONTACT_SD, posterior_sd, scale_report
from teacher.optimise.solver import solve

STATURE = Witness(log_scale=0.1, sd=0.06)


def witness(sd: float, log_scale: float = 0.0) -> Witness:
    return Witness(log_scale=log_scale, sd=math.hypot(sd, FLOOR_SD))


def test_contacts_cannot_make_the_world_surer_than_the_people_in_it() -> None:
    # 3-4-5: two ratios of sd 0.08 * sqrt 2 give 0.08; with people of 0.06 the size is good to 0.10.
    ratio = witness(0.08 * 2**0.5)
    assert posterior_sd([ratio, ratio], STATURE, None, tied=True) == pytest.approx(0.10, abs=1e-9)
    assert posterior_sd([witness(0.001)] * 9, STATURE, None, tied=True) > STATURE.sd


def test_a_metric_initialiser_is_a_second_opinion() -> None:
    metric = Witness(log_scale=0.0, sd=0.1)
    assert posterior_sd([witness(0.08)], STATURE, metric, tied=True) == pytest.approx(0.1 / 2**0.5, abs=1e-9)


def test_witnesses_that_disagree_are_less_sure() -> None:
    near, far = witness(0.05, -0.1), witness(0.05, 0.1)
    # chi^2 = (0.1 / 0.05)^2 * 2 = 8, so 0.05 / sqrt 2 grows by sqrt 8 to 0.1.
    assert posterior_sd([near, far], STATURE, None, tied=True) == pytest.approx(math.hypot(0.1, 0.06), abs=1e-9)


def test_without_a_scene_people_are_all_there_is_and_a_scene_without_contacts_has_no_size() -> None:
    assert posterior_sd([], STATURE, None, tied=False) == pytest.approx(0.06)
    assert posterior_sd([], STATURE, None, tied=True) == pytest.approx(math.log(2))


def report(camera: Literal["walk", "static"], people: int, **errors: Any) -> dict[str, Any]:
    clip = make_clip(ClipSpec(id="size", seed=3, frames=24, fps=10.0, people=people, camera=camera, objects=4))
    config = OptimiseConfig(track_gaps=[1, 3, 9], pairs_per_frame=30)
    problem = problem_from_truth(clip, Degradation(seed=2, pose_sd=0.05, keypoint_px=1.0, **errors), points=200)
    return scale_report(problem, solve(problem, config, lambda fraction, text: None), config)


def test_a_walked_scene_names_its_witnesses_and_holds_the_truth() -> None:
    found = report("walk", 1, cameras="sfm", unit=2.0)
    assert set(found["witnesses"]) == {"depth", "still", "stature"}
    assert found["log_sd"] >= math.hypot(0.10 / 1.69, CONTACT_SD / 2**0.5) - 1e-3
    assert found["log_sd"] < 0.12
    assert abs(math.log(found["metres_per_unit"] * 2.0)) < 2 * found["log_sd"]
    for said in found["witnesses"].values():
        assert np.isfinite([said["metres_per_unit"], said["sd"]]).all()


def test_a_fixed_camera_rests_on_stature_alone_and_several_people_are_surer() -> None:
    one, two = report("static", 1, cameras="static"), report("static", 2, cameras="static")
    assert set(one["witnesses"]) == {"stature"}
    assert one["log_sd"] == pytest.approx(0.10 / 1.69, abs=1e-3)
    assert two["log_sd"] == pytest.approx(one["log_sd"] / 2**0.5, abs=1e-3)


def test_known_cameras_are_certain() -> None:
    assert report("walk", 1, cameras="known")["log_sd"] == 0

"""How each entry of the parity data is computed with `distill.metrics`; see tests/test_metrics_parity.py.

An entry names a peer (`repo`), one of its metrics and the inputs it was given. `compute` turns that into the
call of ours that states the same definition, and returns an array or a number.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distill import metrics as m

Inputs = Mapping[str, Any]
PROTOCOLS = {"josh_rich": "josh", "josh_emdb": "josh", "josh_sloper4d": "josh"}
STANDING = ("transl", "j3d")


def compute(metric: str, repo: str, x: Inputs) -> Any:
    """Value of ours for an entry.

    Raises:
        KeyError: this table does not know the entry.
    """
    metric = metric.removesuffix("_nan_masked")
    if repo in ("josh_emdb", "josh_sloper4d") and "gt_w2c" in x:
        x = end_to_end(x, repo)
    for name, run in (("evo", _evo), ("slahmr", _slahmr)):
        if repo == name:
            return run(metric, x)
    if repo == "human3r" and re.search(r"_(max\w+)$", metric):
        return _human3r_depth(metric, x)
    return TABLE[metric](x, PROTOCOLS.get(repo, repo), repo)


def end_to_end(x: Inputs, repo: str) -> dict[str, Any]:
    """What JOSH's scripts feed their metrics with: its world and camera points, at the frames it evaluates."""
    frames = np.flatnonzero(x["mask"]) if repo == "josh_emdb" else np.asarray(x["frame"])
    world_from_cam, cam_from_true = x["pred_c2w"][frames], x["gt_w2c"][frames]
    true = {k: x[k][frames] for k in ("target_j3d_w", "target_foot_w", "target_transl_w")}
    place = functools.partial(_place, world_from_cam)
    root_cam = (
        x["pred_transl_c"][frames]
        if repo == "josh_emdb"
        else _place(cam_from_true, true["target_transl_w"][:, None])[:, 0]
    )
    return {
        **true,
        "target_j3d_c": _place(cam_from_true, true["target_j3d_w"]),
        "pred_j3d_c": x["pred_j3d_c"][frames],
        "pred_j3d_w": place(x["pred_j3d_c"][frames]),
        "pred_foot_w": place(x["pred_foot_c"][frames]),
        "pred_transl_w": place(root_cam[:, None])[:, 0],
        "mask": None,
        "fps": 30 if repo == "josh_emdb" else 20,
        "gt_c2w": np.linalg.inv(x["gt_w2c"]),
        "est_c2w": x["pred_c2w"],
    }


def _place(transform: Any, points: Any) -> Any:
    return points @ np.swapaxes(transform[:, :3, :3], -1, -2) + transform[:, None, :3, 3]


def _pair(x: Inputs, name: str) -> tuple[Any, Any]:
    return x[f"target_{name}"], x[f"pred_{name}"]


def _root(x: Inputs, repo: str) -> tuple[Any, Any]:
    if repo in ("wham", "josh_rich", "josh_emdb", "josh_sloper4d"):
        return _pair(x, "transl_w")
    return tuple(j[:, 0] for j in _pair(x, "j3d_w"))  # type: ignore[return-value]


def _accel(x: Inputs, protocol: Any, repo: str) -> Any:
    kind, align = ("w", "none") if repo == "josh_rich" else ("c", "pelvis")
    pair = _pair(x, f"j3d_{kind}")
    return m.accel_error(*pair, fps=x.get("fps", 30), mask=x.get("mask"), align_to=align, protocol=protocol)


def _accel_visible(x: Inputs, protocol: Any, repo: str) -> Any:
    fps = 1 if repo == "wham" else 30
    return m.accel_error(*_pair(x, "j3d_c"), fps=fps, mask=x["mask"], align_to="none")


def _smoothed(metric: Callable[..., Any], x: Inputs, **options: Any) -> Any:
    return metric(x["target_j3d_w"], m.smooth_root(x["pred_j3d_w"]), mask=x["mask"], **options)


def _ate(x: Inputs, protocol: Any, repo: str) -> float:
    align = "sim3" if repo in ("tram", "human3r") else "se3"
    error = m.ate(
        x["gt_c2w"], x["est_c2w"], align_to=align, protocol=protocol, allow_degenerate=repo == "josh_sloper4d"
    )
    return float(error.mean()) if repo in ("tram", "josh_emdb") else m.rmse(error)


def _floating(x: Inputs) -> Any:
    frame = np.broadcast_to(x["img_idx"][:, None, None], x["conf"].shape)
    return m.foot_floating_rate(
        x["pred_foot_w"], x["points"][x["conf"]], feet_frames=x["frame"], scene_frames=frame[x["conf"]], protocol="josh"
    )


def _cloud(x: Inputs, part: str, max_distance: float | None, voxel: bool) -> float:
    true, predicted = x["gt_raw" if voxel else "gt_points"], x["pred_raw" if voxel else "pred_points"]
    if voxel:
        true, predicted = m.voxel_mean(true, 0.3), m.voxel_mean(predicted, 0.3)
    error = m.chamfer(true, predicted, max_distance=max_distance)
    sizes = {"accuracy": (error.accuracy, predicted), "completeness": (error.completeness, true)}
    if part == "chamfer_dist":
        return error.chamfer
    distances, cloud = sizes[part.removesuffix("_pct")]
    return 100 * len(distances) / len(cloud) if part.endswith("_pct") else float(distances.mean())


def _depth(x: Inputs, pick: Callable[[Any], float]) -> Any:
    return np.array([pick(e) for e in m.depth_errors(x["gt"], x["pred"], protocol="josh")])


def _human3r_depth(metric: str, x: Inputs) -> float:
    kind, how, limit = re.fullmatch(r"(abs_rel|rmse|delta1|valid_pixels)_(\w+)_max(\w+)", metric).groups()  # type: ignore[union-attr]
    align: Any = {"metric": "none", "scale_l1_irls": "scale", "scale_shift_lad2": "scale_shift"}.get(how, how)
    error = m.depth_errors(
        x["gt"], x["pred"], max_depth=None if limit == "None" else float(limit), align_to=align, protocol="human3r"
    )[0]
    values = {"abs_rel": error.abs_rel, "rmse": error.rmse, "delta1": error.delta[0], "valid_pixels": error.pixels}
    return float(values[kind])


def _evo(metric: str, x: Inputs) -> Any:
    if metric == "sim3_scale":
        placed = x["gt_c2w"][:, :3, 3], x["est_c2w"][:, :3, 3]
        from distill.metrics.inputs import align

        return float(align(*placed, with_scale=True)[0])
    kind, part, how, *rest = metric.replace("scale_only", "scale").split("_", 3)
    tail = rest[0] if rest else "mean"
    if kind == "ape":
        run = m.ate if part == "trans" else m.ate_rotation
        error = run(x["gt_c2w"], x["est_c2w"], align_to=how)  # type: ignore[arg-type]
    else:
        delta, pairs, *rest = tail.split("_")
        tail = rest[0] if rest else "mean"
        both = m.rpe(
            x["gt_c2w"], x["est_c2w"], delta=int(delta[1:]), all_pairs=pairs in ("all", "True"), align_to=how  # type: ignore[arg-type]
        )  # fmt: skip
        error = both[0 if part == "trans" else 1]
    reduce: dict[str, Callable[[Any], Any]] = {
        "rmse": m.rmse, "mean": np.mean, "median": np.median, "max": np.max, "error_array": lambda e: e,
    }  # fmt: skip
    return reduce[tail](error)


def _slahmr(metric: str, x: Inputs) -> float:
    """All people's valid frames, one person after the other, as one list of rows."""
    valid = x["valid"]
    true, predicted = x["gt_joints"][valid], x["pred_joints"][valid]
    rows = int(valid.sum())
    values: dict[str, Callable[[], Any]] = {
        "ga_jmse": lambda: m.wa_mpjpe(true, predicted, length=rows) / 1000,
        "fa_jmse": lambda: m.w_mpjpe(true, predicted, length=rows) / 1000,
        "pampjpe": lambda: m.pa_mpjpe(true, predicted) / 1000,
        "acc_norm": lambda: m.accel_error(true, predicted, fps=1, align_to="none", protocol="slahmr"),
    }
    return float(values[metric]().mean())


def _edge(x: Inputs, true: str, predicted: str, repo: str) -> Any:
    return m.rte(x[true], x[predicted], with_scale=repo == "human3r_sim3")


def _sorted(points: Any) -> Any:
    return points[np.lexsort(points.T)]


TABLE: dict[str, Callable[[Inputs, Any, str], Any]] = {
    "mpjpe": lambda x, p, r: m.mpjpe(*_pair(x, "j3d_c"), mask=x.get("mask")),
    "metric_mpjpe": lambda x, p, r: m.mpjpe(*_pair(x, "j3d_c"), mask=x.get("mask"), align_to="none"),
    "pa_mpjpe": lambda x, p, r: m.pa_mpjpe(*_pair(x, "j3d_c"), mask=x.get("mask")),
    "pve": lambda x, p, r: m.pve(*_pair(x, "verts_c"), *_pair(x, "j3d_c"), mask=x.get("mask")),
    "pa_pve": lambda x, p, r: m.pa_mpjpe(*_pair(x, "verts_c"), mask=x.get("mask")),
    "metric_pve": lambda x, p, r: m.mpjpe(*_pair(x, "verts_c"), mask=x.get("mask"), align_to="none"),
    "error_verts_no_alignment": lambda x, p, r: m.mpjpe(*_pair(x, "verts_c"), align_to="none") / 1000,
    "root_error": lambda x, p, r: m.root_error(*_pair(x, "j3d_c"), mask=x.get("mask")),
    "accel": _accel,
    "accel_vis_mask": _accel_visible,
    "w_mpjpe": lambda x, p, r: m.w_mpjpe(*_pair(x, "j3d_w"), mask=x.get("mask"), protocol=p),
    "wa_mpjpe": lambda x, p, r: m.wa_mpjpe(*_pair(x, "j3d_w"), mask=x.get("mask"), protocol=p),
    "w_first_piece": lambda x, p, r: m.w_mpjpe(*_pair(x, "j3d_w"), protocol=p),
    "w_mpjpe_after_traj_filter": lambda x, p, r: _smoothed(m.w_mpjpe, x, protocol=p),
    "wa_mpjpe_after_traj_filter": lambda x, p, r: _smoothed(m.wa_mpjpe, x, protocol=p),
    "rte_after_traj_filter": lambda x, p, r: m.rte(
        x["target_j3d_w"][:, 0], m.smooth_root(x["pred_j3d_w"])[:, 0], mask=x["mask"]
    ),
    "rte": lambda x, p, r: m.rte(*_root(x, r), mask=x.get("mask")),
    "rte_piece": lambda x, p, r: m.rte(*_root(x, r)),
    "rte_scaled": lambda x, p, r: m.rte(*_root(x, r), mask=x.get("mask"), with_scale=True),
    "rte_align_first_m": lambda x, p, r: m.root_drift(*_pair(x, "j3d_w"), mask=x.get("mask")),
    "erve": lambda x, p, r: m.root_velocity_error(
        *(j[:, 0] for j in _pair(x, "j3d_w")), *_pair(x, "ori_w"), mask=x.get("mask")
    ),
    "jitter": lambda x, p, r: m.jitter(x["pred_j3d_w"], fps=x.get("fps", 30), mask=x.get("mask"), protocol=p),
    "jitter_piece": lambda x, p, r: m.jitter(x["pred_j3d_w"], protocol=p),
    "foot_sliding": lambda x, p, r: m.foot_sliding(*_pair(x, "foot_w"), mask=x.get("mask"), protocol=p),
    "foot_sliding_piece": lambda x, p, r: m.foot_sliding(*_pair(x, "foot_w"), protocol=p),
    "contact_f1": lambda x, p, r: m.contact_f1(
        *(m.contacts_from_motion(f, mask=x["mask"]) for f in _pair(x, "foot_w"))
    ),
    "all": lambda x, p, r: (
        m.pa_mpjpe(*_pair(x, "j3d_c"), mask=x["mask"]),
        m.w_mpjpe(*_pair(x, "j3d_w"), mask=x["mask"], protocol=p),
    ),
    "ate": _ate,
    "ate_s": lambda x, p, r: float(m.ate(x["gt_c2w"], x["est_c2w"]).mean()),
    "ate_rmse_not_reported": lambda x, p, r: m.rmse(m.ate(x["gt_c2w"], x["est_c2w"], protocol="josh")),
    "ate_on_centres": lambda x, p, r: m.rmse(m.ate(x["gt_c2w"], x["est_c2w"], allow_degenerate=True)),
    "rpe_trans": lambda x, p, r: m.rmse(m.rpe(x["gt_c2w"], x["est_c2w"], align_to="sim3")[0]),
    "rpe_rot": lambda x, p, r: m.rmse(m.rpe(x["gt_c2w"], x["est_c2w"], align_to="sim3")[1]),
    "abs_rel": lambda x, p, r: m.abs_rel(x["gt"], x["pred"], protocol=p),
    "rmse": lambda x, p, r: _depth(x, lambda e: e.rmse),
    "log_rmse": lambda x, p, r: _depth(x, lambda e: e.log_rmse),
    "si_log_rmse": lambda x, p, r: _depth(x, lambda e: e.si_log),
    "delta_1": lambda x, p, r: _depth(x, lambda e: e.delta[0]),
    "delta_2": lambda x, p, r: _depth(x, lambda e: e.delta[1]),
    "delta_3": lambda x, p, r: _depth(x, lambda e: e.delta[2]),
    **{
        f"{part}_{suffix}": functools.partial(
            lambda x, p, r, part, limit, voxel: _cloud(x, part, limit, voxel), part=part, limit=limit, voxel=voxel
        )
        for part in ("chamfer_dist", "accuracy", "completeness", "accuracy_pct", "completeness_pct")
        for suffix, limit, voxel in (("max1000", None, False), ("max0.2", 0.2, False), ("after_voxel0.3", None, True))
    },
    "voxel_down_pred_count": lambda x, p, r: len(m.voxel_mean(x["pred_raw"], 0.3)),
    "voxel_down_gt_count": lambda x, p, r: len(m.voxel_mean(x["gt_raw"], 0.3)),
    "voxel_down_pred_sorted": lambda x, p, r: _sorted(m.voxel_mean(x["pred_raw"], 0.3)),
    "voxel_down_gt_sorted": lambda x, p, r: _sorted(m.voxel_mean(x["gt_raw"], 0.3)),
    "ffr": lambda x, p, r: float(_floating(x).mean()),
    "frames_counted": lambda x, p, r: len(_floating(x)),
    "floating": lambda x, p, r: _floating(x),
    "psnr": lambda x, p, r: float(m.psnr(x["img_gt"], x["img_pred"])[0]),
    "psnr_chw": lambda x, p, r: float(m.psnr(x["img_gt"], x["img_pred"], per_channel=True)[0]),
    "psnr_uint8": lambda x, p, r: float(
        m.psnr(*(np.round(255 * x[k]) for k in ("img_gt", "img_pred")), data_range=255)[0]
    ),
    "psnr_identical": lambda x, p, r: float(m.psnr(x["img_gt"], x["img_gt"])[0]),
    "ssim_gauss": lambda x, p, r: float(
        m.ssim(x["img_gt"], x["img_pred"], border="reflect" if r == "torchmetrics" else "crop")[0]
    ),
    "ssim_default": lambda x, p, r: float(m.ssim(x["img_gt"], x["img_pred"], window="uniform")[0]),
    "ssim_zero_pad": lambda x, p, r: float(m.ssim(x["img_gt"], x["img_pred"], border="zero")[0]),
    "ssim_gauss_gray": lambda x, p, r: float(m.ssim(x["img_gt"][..., :1], x["img_pred"][..., :1])[0]),
    "lpips_from_features": lambda x, p, r: float(
        m.lpips_from_features(*([x[f"{k}_{i}"] for i in range(5)] for k in ("f0", "f1", "lin")))[0]
    ),
    "rte_static_vs_static": lambda x, p, r: _edge(x, "static", "static", r),
    "rte_gt_static_pred_walk": lambda x, p, r: _edge(x, "static", "walk", r),
    "rte_gt_walk_pred_static": lambda x, p, r: _edge(x, "walk", "static", r),
    "rte_identical": lambda x, p, r: _edge(x, "walk", "walk", r),
}
"""Metric of the data -> (inputs, protocol, repo) -> value."""

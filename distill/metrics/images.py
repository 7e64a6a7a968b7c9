"""How alike two images are: PSNR, SSIM, and LPIPS from a network's features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import correlate1d, uniform_filter

from distill.metrics.inputs import Array, as_floats, require_finite


def _images(target: ArrayLike, prediction: ArrayLike) -> tuple[Array, Array]:
    true = as_floats("target", target, None, None, None)
    predicted = as_floats("prediction", prediction, None, None, None)
    if true.shape != predicted.shape or true.ndim not in (3, 4):
        raise ValueError(f"images {true.shape} and {predicted.shape}; expected equal [H, W, C] or [N, H, W, C]")
    require_finite("target", true), require_finite("prediction", predicted)
    return true.reshape(-1, *true.shape[-3:]), predicted.reshape(-1, *predicted.shape[-3:])


def psnr(target: ArrayLike, prediction: ArrayLike, *, data_range: float = 1.0, per_channel: bool = False) -> Array:
    """Peak signal to noise ratio per image, dB; infinite for equal images.

    Args:
        target, prediction: [N, H, W, C] or [H, W, C], in [0, data_range].
        per_channel: mean of the channels' ratios (what 3DGS's function gives without a batch axis).

    Returns:
        [N].
    """
    true, predicted = _images(target, prediction)
    error = ((true - predicted) ** 2).mean((1, 2))
    with np.errstate(divide="ignore"):
        if per_channel:
            return (10 * np.log10(data_range**2 / error)).mean(-1)
        return 10 * np.log10(data_range**2 / error.mean(-1))


def ssim(
    target: ArrayLike, prediction: ArrayLike, *, data_range: float = 1.0,
    border: Literal["crop", "reflect", "zero"] = "crop", window: Literal["gaussian", "uniform"] = "gaussian",
) -> Array:  # fmt: skip
    """Structural similarity per image (Wang et al. 2004), K = 0.01, 0.03.

    One window, three numbers, by what happens at the border: "crop" (ours; scikit-image) evaluates where the
    window fits, "reflect" (torchmetrics) and "zero" (3DGS) pad. The window is an 11 x 11 Gaussian of sigma 1.5
    with population covariance; "uniform" is scikit-image's default, 7 x 7 with sample covariance.

    Args:
        target, prediction: [N, H, W, C] or [H, W, C], in [0, data_range]; at least 11 pixels a side.

    Returns:
        [N].
    """
    true, predicted = _images(target, prediction)
    radius = 5 if window == "gaussian" else 3
    if min(true.shape[1:3]) < 2 * radius + 1:
        raise ValueError(f"ssim: images of {true.shape[1:3]} are smaller than the window")
    mode = {"crop": "reflect", "reflect": "mirror", "zero": "constant"}[border]

    def mean(image: Array) -> Array:
        if window == "uniform":
            return uniform_filter(image, (1, 7, 7, 1), mode=mode)
        kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * 1.5**2))
        return correlate1d(correlate1d(image, kernel / kernel.sum(), axis=1, mode=mode), kernel / kernel.sum(),
                           axis=2, mode=mode)  # fmt: skip

    sample = 49 / 48 if window == "uniform" else 1.0
    mu_t, mu_p = mean(true), mean(predicted)
    var_t, var_p = sample * (mean(true**2) - mu_t**2), sample * (mean(predicted**2) - mu_p**2)
    covariance = sample * (mean(true * predicted) - mu_t * mu_p)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = ((2 * mu_t * mu_p + c1) * (2 * covariance + c2)) / ((mu_t**2 + mu_p**2 + c1) * (var_t + var_p + c2))
    if border == "crop":
        similarity = similarity[:, radius:-radius, radius:-radius]
    return similarity.mean((1, 2, 3))


def lpips_from_features(
    target: Sequence[ArrayLike], prediction: Sequence[ArrayLike], heads: Sequence[ArrayLike]
) -> Array:
    """Learned perceptual distance per image (Zhang et al. 2018) from features computed elsewhere.

    Per layer: channels normalised to unit length, squared difference, weighted by the head, mean over places.

    Args:
        target, prediction: per layer [N, C, H, W]. heads: per layer [C].

    Returns:
        [N].
    """
    if not len(target) == len(prediction) == len(heads) > 0:
        raise ValueError(f"lpips: {len(target)}, {len(prediction)} and {len(heads)} layers")
    total: Array = np.zeros(1)
    for true, predicted, head in zip(target, prediction, heads, strict=True):
        unit = [_unit(as_floats("features", part, None, None, None, None)) for part in (true, predicted)]
        weight = as_floats("head", head, None)
        total = total + np.einsum("nchw,c->nhw", (unit[0] - unit[1]) ** 2, weight).mean((1, 2))
    return total


def _unit(features: Array) -> Array:
    return features / np.sqrt(1e-8 + (features**2).sum(1, keepdims=True))

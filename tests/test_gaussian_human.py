"""People's Gaussians: what is seen of a body, what is remembered of it, and that an avatar improves with frames."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.body import BodyModel
from distill.models.gaussian_config import GaussianConfig
from distill.models.gaussian_human import (
    FREE_REACH,
    TIGHT_REACH,
    Evidence,
    HumanHead,
    Template,
    filled_colors,
    make_template,
)
from distill.models.gaussian_visibility import Sight, body_mask, look_at_anchors, posed_vertices, see_anchors
from tests.conftest import TOLERANCES
from tests.gaussian_support import SMALL, VIEW, camera, colors_of_places, facing, picture_of, tokens_of
from tests.student_support import one_thread  # noqa: F401 (a fixture)

BETAS = torch.zeros(1, 10)
REST = torch.eye(3).expand(1, 23, 3, 3)


@pytest.fixture(scope="module")
def template(body: BodyModel) -> Template:
    return make_template(body, SMALL)


def vertices_at(body: BodyModel, angle: float, depth: float = 3.0) -> Tensor:
    cam_from_body = facing(angle)
    cam_from_body[2, 3] = depth
    return posed_vertices(body, BETAS, REST, cam_from_body[None])


def test_the_front_is_seen_from_the_front_and_the_back_is_not(body: BodyModel, template: Template) -> None:
    _, weight = see_anchors(vertices_at(body, 0.0), body.faces, template.anchors, camera(), VIEW)
    normal = template.frames[:, 2, 2]  # of the third axis, along body z, which points to the front
    assert weight.shape == (1, 150)
    assert (weight[0, normal < -0.3] == 0).all()
    assert (weight[0, normal > 0.8] > 0).float().mean() > 0.8
    _, back = see_anchors(vertices_at(body, math.pi), body.faces, template.anchors, camera(), VIEW)
    assert not ((weight > 0.1) & (back > 0.1)).any()


def test_people_hide_each_other_and_the_border_hides_what_is_beyond(body: BodyModel, template: Template) -> None:
    near, far = vertices_at(body, 0.0, 2.0), vertices_at(body, 0.0, 4.0)
    _, alone = see_anchors(far, body.faces, template.anchors, camera(), VIEW)
    _, both = see_anchors(torch.cat((far, near)), body.faces, template.anchors, camera(), VIEW)
    assert (both[0] > 0).sum() < 0.2 * (alone[0] > 0).sum()
    aside = vertices_at(body, 0.0) + torch.tensor([5.0, 0, 0])
    assert see_anchors(aside, body.faces, template.anchors, camera(), VIEW)[1].sum() == 0
    assert see_anchors(-far, body.faces, template.anchors, camera(), VIEW)[1].sum() == 0


def test_colours_and_features_are_those_of_the_pixels(body: BodyModel, template: Template) -> None:
    x = torch.arange(VIEW[0]) + 0.5
    images = (x / VIEW[0]).expand(1, 3, VIEW[1], VIEW[0]).contiguous()
    vertices = vertices_at(body, 0.0)
    sight = look_at_anchors(tokens_of(images), vertices, body.faces, template.anchors, camera())
    pixels, _ = see_anchors(vertices, body.faces, template.anchors, camera(), VIEW)
    inside = (pixels[0, :, 0] > 1) & (pixels[0, :, 0] < VIEW[0] - 1)
    torch.testing.assert_close(sight.colors[0, inside, 0], pixels[0, inside, 0] / VIEW[0], **TOLERANCES[torch.float32])
    assert sight.features.shape == (1, 150, 6)


def test_masks_and_trust_weigh_what_is_seen(body: BodyModel, template: Template) -> None:
    frame, vertices = tokens_of(picture_of(body, 0.0)), vertices_at(body, 0.0)
    there = (frame, vertices, body.faces, template.anchors, camera())
    plain = look_at_anchors(*there).weight
    mask = torch.zeros(1, VIEW[1], VIEW[0])
    mask[:, : VIEW[1] // 2] = 1  # the upper half of the picture
    half = look_at_anchors(*there, masks=mask).weight
    assert 0 < (half > 0).sum() < (plain > 0).sum()
    assert torch.equal(half[half > 0], plain[half > 0])
    torch.testing.assert_close(look_at_anchors(*there, trust=torch.tensor([0.25])).weight, 0.25 * plain)


def test_a_body_covers_its_mask(body: BodyModel) -> None:
    vertices = vertices_at(body, 0.0)
    mask = body_mask(vertices, camera(), VIEW, 1)
    drawn = picture_of(body, 0.0)[0].amax(0) > 0.3
    assert (mask & drawn).sum() > 0.97 * drawn.sum()
    assert mask.sum() < 2 * drawn.sum()
    assert not body_mask(vertices[:0], camera(), VIEW, 1).any()


def sight_of(weight: list[float], colors: list[list[float]]) -> Sight:
    return Sight(weight=torch.tensor([weight]), features=torch.ones(1, len(weight), 2), colors=torch.tensor([colors]))


def test_evidence_is_the_weighted_mean_in_any_order() -> None:
    first = sight_of([1.0, 0.0], [[1.0, 0, 0], [0.3, 0.3, 0.3]])
    second = sight_of([3.0, 0.5], [[0.0, 1, 0], [0.0, 0, 1]])
    evidence = Evidence.none(2, 2).with_sight(first, 0).with_sight(second, 0)
    torch.testing.assert_close(evidence.colors, torch.tensor([[0.25, 0.75, 0], [0, 0, 1]]))
    torch.testing.assert_close(evidence.weight, torch.tensor([4.0, 0.5]))
    assert evidence.frames == 2
    turned = Evidence.none(2, 2).with_sight(second, 0).with_sight(first, 0)
    torch.testing.assert_close(turned.colors, evidence.colors)


def test_what_was_never_seen_is_filled_from_the_other_side_first(template: Template) -> None:
    count = len(template.anchors)
    right = template.places[:, 0] < -0.25
    seen = Evidence.none(count, 2)
    seen.weight[right] = 1.0
    seen.colors[right] = torch.tensor([0.9, 0.1, 0.2])
    colors = filled_colors(seen, template)
    left = template.places[:, 0] > 0.28
    assert left.sum() > 5
    assert (colors[left] - torch.tensor([0.9, 0.1, 0.2])).abs().max() < 0.05
    nobody = filled_colors(Evidence.none(count, 2), template)
    torch.testing.assert_close(nobody, torch.full_like(nobody, 0.5))


def test_an_avatar_improves_with_frames(body: BodyModel, template: Template) -> None:
    torch.manual_seed(0)
    head = HumanHead(SMALL, 6)
    wanted = colors_of_places(template.places)
    evidence, errors = Evidence.none(len(template.anchors), 6), []
    for angle in (0.0, math.pi / 2, math.pi, 3 * math.pi / 2):
        frame = tokens_of(picture_of(body, angle))
        sight = look_at_anchors(frame, vertices_at(body, angle), body.faces, template.anchors, camera())
        evidence = evidence.with_sight(sight, 0)
        avatar = head(evidence, template, BETAS[0])
        errors.append(float((avatar.colors[::2].detach() - wanted).abs().mean()))
    assert errors[1] < errors[0]
    assert errors[2] < errors[1]
    assert errors[-1] < 0.6 * errors[0]
    assert errors[-1] < 0.09


def test_a_fresh_avatar_is_a_closed_skin_on_its_anchors(template: Template) -> None:
    torch.manual_seed(0)
    avatar = HumanHead(SMALL, 6)(Evidence.none(150, 6), template, BETAS[0])
    assert len(avatar) == 300
    assert avatar.offsets.abs().max() == 0
    assert (avatar.opacities[::2] > 0.85).all()
    assert (avatar.opacities[1::2] < 0.06).all()
    torch.testing.assert_close(avatar.scales[::2], template.start.scales)
    turned = (avatar.quats[::2] * template.start.quats).sum(-1).abs()
    torch.testing.assert_close(turned, torch.ones(150), **TOLERANCES[torch.float32])


def test_gaussians_stay_within_reach(template: Template) -> None:
    torch.manual_seed(0)
    head = HumanHead(SMALL, 6)
    torch.nn.init.normal_(head.out.weight, std=30.0)
    avatar = head(Evidence.none(150, 6), template, BETAS[0])
    longest = avatar.offsets.norm(dim=-1).detach()
    assert 0.9 * TIGHT_REACH < longest[::2].max() <= math.sqrt(3) * TIGHT_REACH + 1e-6
    assert 0.9 * FREE_REACH < longest[1::2].max() <= math.sqrt(3) * FREE_REACH + 1e-6
    assert torch.isfinite(avatar.scales).all()


def test_neighbours_are_of_the_same_copy(template: Template) -> None:
    a, b = template.edges.unbind(1)
    assert (a % SMALL.per_anchor == b % SMALL.per_anchor).all()
    apart = (template.places[a // SMALL.per_anchor] - template.places[b // SMALL.per_anchor]).norm(dim=-1)
    assert apart.max() < 0.6
    assert apart.median() < 0.25


def test_more_anchors_than_vertices_are_refused(body: BodyModel) -> None:
    with pytest.raises(ValueError, match="of 13718 vertices"):
        make_template(body, GaussianConfig(anchors=20_000))

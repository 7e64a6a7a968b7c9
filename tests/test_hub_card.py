"""Cards and records: what a run's files say is what the card says, and what they do not say is named as a gap."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config import config_to_dict, save_config
from distill.data_config import DataConfig
from distill.errors import FootfallError
from distill.files import write_json
from distill.held_out import METRICS
from distill.hub_push import add_reports, check_licence
from distill.models import card as card_module
from distill.models.card import changed_settings, field_rows, make_card
from distill.models.licences import card_licence, licence_chain
from distill.models.prediction import PairPrediction, Prompts
from distill.models.pretrained import write_card
from distill.models.student import Student
from distill.models.trunk import HeadConfig
from distill.train_config import TrainConfig
from distill.trainer import Trainer
from distill.training_record import beside, data_facts, make_record, note_start, public
from tests.shard_support import make_shards

CONFIG = {
    "format": "footfall-student/2",
    "student": {"body_model": "anny", "num_betas": 10},
    "backbone": {"id": "tiny", "revision": None, "sha256": "b" * 64, "licence": "Apache-2.0"},
    "preprocessing": {"multiple": 16, "long_side": 224},
    "parameters": 3_264_083,
    "weights_sha256": "a" * 64,
}


def manifest_of(clips: list[tuple[str, str, float]], network_licence: str = "Apache-2.0") -> dict[str, Any]:
    """A manifest with clips of (source, licence, seconds)."""
    rows = {
        f"clip{k}": {
            "source": source, "licence": licence, "seconds": seconds, "frames": 10, "teacher_commit": "abc",
            "weights": {"blazepose": {"sha256": "1", "licence": network_licence}},
        }
        for k, (source, licence, seconds) in enumerate(clips)
    }  # fmt: skip
    totals = {"clips": len(clips), "frames": 10 * len(clips), "seconds": sum(c[2] for c in clips), "samples": 3}
    return {"format": "footfall-shards/1", "schema_version": 1, "totals": totals, "clips": rows}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with labels beside it: 2 hours of CC0, 1 hour of CC-BY."""
    labels = tmp_path / "labels"
    (labels / "shards").mkdir(parents=True)
    clips = [("https://me:secret@site.org/a.mp4?sig=x", "CC0-1.0", 7200.0), ("walks", "CC-BY-4.0", 3600.0)]
    write_json(labels / "manifest.json", manifest_of(clips))
    folder = tmp_path / "runs" / "walker"
    config = TrainConfig(name="walker", steps=100)
    config.data.shards = str(labels / "shards")
    save_config(folder / "log" / "config.yaml", config)
    note_start(folder, step=0, processes=2)
    rows: list[dict[str, float]] = [
        {"step": 50, "held_out/joints_mm": 99.0},
        {"step": 90, "loss": 1.5},
        {"step": 100, "held_out/joints_mm": 71.25, "held_out/loss/loop": 0.5, "held_out/w_mpjpe_mm": 1234.4},
    ]
    (folder / "log" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 1')
    write_json(folder / "state" / "training.json", {"step": 100, "seconds": 1800.0})
    return folder


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A student's folder as far as cards look at it."""
    folder = tmp_path / "pretrained"
    write_json(folder / "config.json", CONFIG)
    return folder


def write_report(path: Path, **provenance: str) -> Path:
    """A report as `footfall evaluate` writes it."""
    write_json(path, {
        "format": "footfall-report/1",
        "provenance": {"commit": "abc", "evaluated": "pretrained", **provenance},
        "protocol": {"protocol": "footfall", "segment": 100, "definitions": "docs/metrics.md", "averages": "frames"},
        "predictions": "p", "data": "/x/footsteps-v1",
        "overall": {"w_mpjpe_mm": 321.0, "contact_f1": None, "clips": 3, "clips_evaluated": 2},
        "clips": [{"id": "a", "status": "evaluated"}, {"id": "b", "status": "missed"}],
    })  # fmt: skip
    return path


def front_matter(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_card_says_what_the_run_says(run: Path, student: Path, tmp_path: Path) -> None:
    report = write_report(tmp_path / "held-out.json", weights_sha256="a" * 64)
    write_card(student, run, reports=[report])
    text = (student / "README.md").read_text()
    assert text == make_card(CONFIG, json.loads((student / "training.json").read_text()))
    for words in (
        "2 clips, 3.000 hours", "| CC-BY-4.0 | 1 | 1.000 |", "| walks | CC-BY-4.0 | 1 | 1.000 |",
        "| https://site.org/a.mp4 | CC0-1.0 | 1 | 2.000 |", "| blazepose | Apache-2.0 | 2 |", "steps=100",
        "Step 100 of 100, 0.50 hours", "2 processes", "| frame pairs: joints_mm | 71.25 |",
        "| streamed samples: w_mpjpe_mm | 1234 |", "| held-out | footsteps-v1 | 321 |", "not defined",
        "2 of 3 clips evaluated", "1 of the clips gave nothing to score",
    ):  # fmt: skip
        assert words in text, words
    for words in ("secret", "sig=", "99", "loss/loop", "{{", "no number here says anything about real video"):
        assert words not in text, words
    head = front_matter(text)
    assert head["license"] == "apache-2.0" and head["footfall"]["data"]["hours"] == 3.0
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == 321.0
    check_licence(student / "README.md")


def test_what_is_not_known_is_a_gap(run: Path, student: Path) -> None:
    write_card(student, run, manifests=[], step=40, seconds=9.0)
    text = (student / "README.md").read_text()
    assert "stopped at step 40 of 100" in text and "No manifest lay beside" in text and "No evaluation in world" in text
    assert "license" not in front_matter(text)
    with pytest.raises(FootfallError, match="licence None"):
        check_licence(student / "README.md")
    plain = make_card(CONFIG, None)
    assert "was not recorded" in plain and front_matter(plain)["license"] == "apache-2.0"


def test_drawn_data_say_nothing_about_real_video(run: Path, student: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "drawn.json"
    write_json(manifest, manifest_of([("footfall synthetic", "CC0-1.0", 60.0)]))
    write_card(student, run, manifests=[manifest, manifest])
    text = (student / "README.md").read_text()
    assert "no number here says anything about real video" in text and "2 clips" in text


@pytest.mark.parametrize(
    ("backbone", "clips", "network", "expected"),
    [
        ("Apache-2.0", ["CC0-1.0", "BSD-3-Clause (Pose2Sim)"], "Apache-2.0", "apache-2.0"),
        ("CC-BY-NC-SA-4.0", ["CC0-1.0"], "Apache-2.0", "other"),
        ("Apache-2.0", ["CC0-1.0; motion capture under its own terms"], "Apache-2.0", "other"),
        ("Apache-2.0", ["CC0-1.0"], "CC-BY-NC-4.0", "other"),
        ("Apache-2.0", ["CC0-1.0", "unknown"], "Apache-2.0", None),
        ("unknown", ["CC0-1.0"], "Apache-2.0", None),
        ("Apache-2.0", ["CC0-1.0"], "unknown", None),
    ],
)
def test_every_link_of_the_licence_chain_counts(
    tmp_path: Path, backbone: str, clips: list[str], network: str, expected: str | None
) -> None:
    write_json(tmp_path / "manifest.json", manifest_of([("s", clip, 1.0) for clip in clips], network))
    links = licence_chain(backbone, data_facts([tmp_path / "manifest.json"]))
    assert set(links) == {backbone, network, *clips}
    assert card_licence(links).get("license") == expected


def test_reports_are_of_these_weights_and_never_overwrite_a_hand(run: Path, student: Path, tmp_path: Path) -> None:
    write_card(student, run)
    other = write_report(tmp_path / "other.json", weights_sha256="c" * 64)
    with pytest.raises(FootfallError, match="scores of weights ccc"):
        add_reports(student, [other])
    unnamed = write_report(tmp_path / "unnamed.json")
    add_reports(student, [unnamed])
    assert "does not name the hash" in (student / "README.md").read_text()
    (student / "README.md").write_text((student / "README.md").read_text() + "\nmine\n")
    with pytest.raises(FootfallError, match="edited by hand"):
        add_reports(student, [unnamed])
    write_json(tmp_path / "no.json", {"format": "x"})
    with pytest.raises(FootfallError, match="footfall-report/1"):
        write_card(student, run, reports=[tmp_path / "no.json"])
    with pytest.raises(FootfallError, match="footfall-shards/1"):
        write_card(student, run, manifests=[tmp_path / "no.json"])
    with pytest.raises(FootfallError, match=r"log/config\.yaml"):
        make_record(tmp_path / "nothing")


def test_tables_name_every_field_with_its_shape() -> None:
    for schema in (Prompts, PairPrediction):
        rows = field_rows(schema)
        named = [name for names, _, _ in rows for name in names.split(", ")]
        assert named == list(schema.__dataclass_fields__)
        assert all(shape.startswith("[B") and shape.endswith("]") and meaning for _, shape, meaning in rows)


def test_names_of_streamed_metrics_are_those_of_the_trainer() -> None:
    assert card_module._STREAMED == METRICS


def test_settings_that_changed_only() -> None:
    config = TrainConfig(steps=7)
    config.data.batch_size = 3
    assert changed_settings(config_to_dict(config)) == ["steps=7", "data.batch_size=3"]
    assert changed_settings({"new_one": 1}) == ["new_one=1"]


def test_logins_signed_queries_and_home_stay_private() -> None:
    text = f"--shards https://bob:pw@h.org/{{0..3}}.tar?token=1 s3://b/c {Path.home()}/x"
    assert public(text) == "--shards https://h.org/{0..3}.tar s3://b/c ~/x"


def test_manifest_is_found_beside_all_local_forms(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000000.tar").touch()
    write_json(tmp_path / "manifest.json", {})
    for spec in (tmp_path, tmp_path / "shards", tmp_path / "shards" / "000000.tar", tmp_path / "shards" / "*.tar"):
        assert beside(str(spec)) == [tmp_path / "manifest.json"]
    for name in ("w1", "w2"):
        (tmp_path / name / "shards").mkdir(parents=True)
    write_json(tmp_path / "w1" / "manifest.json", {})
    several = str(tmp_path / "w?" / "shards" / "*.tar")
    assert beside(several) == []  # part of a chain is none
    write_json(tmp_path / "w2" / "manifest.json", {})
    assert beside(several) == [tmp_path / name / "manifest.json" for name in ("w1", "w2")]
    assert beside("") == beside("https://h.org/0.tar") == beside(str(tmp_path / "none" / "x")) == []


def test_a_training_run_writes_its_card(tmp_path: Path) -> None:
    make_shards(tmp_path / "labels", samples=2, per_shard=2, frames=4)
    config = TrainConfig(name="small", out=str(tmp_path / "runs"), steps=1, log_every=1, save_every=1)
    config.student.head = HeadConfig(width=16, layers=1, attention_heads=2)
    config.data = DataConfig(shards=str(tmp_path / "labels"), batch_size=1, window_frames=2, gaps=[1], workers=0)
    Trainer(config).train()
    pretrained = tmp_path / "runs" / "small" / "pretrained"
    record = json.loads((pretrained / "training.json").read_text())
    assert record["data"]["clips"] == 2 and record["data"]["licences"].keys() == {"CC0-1.0"}
    assert record["step"] == 1 and record["starts"][0]["processes"] == 1
    text = (pretrained / "README.md").read_text()
    assert "2 clips" in text and "| CC0-1.0 |" in text and "Nothing was held out" in text
    check_licence(pretrained / "README.md")
    Student.from_pretrained(pretrained)

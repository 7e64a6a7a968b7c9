"""Bad input to the command line: one clear line (what, got, expected, do this), exit code 2, nothing lost."""

import json
from pathlib import Path

import numpy as np
import pytest

from distill.files import sha256_of, write_json
from teacher.cli import main
from teacher.workspace import ClipFolder, ClipSource, StageRecord

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")


def write_video(path: Path, frames: int, *, size: tuple[int, int] = (160, 120)) -> Path:
    """A video of smoothly moving noise: no cut, no person."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, (size[1] // 8 + 20, size[0] // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    writer = imageio_ffmpeg.write_frames(str(path), size, fps=10, macro_block_size=2, ffmpeg_log_level="error")
    writer.send(None)
    for k in range(frames):
        writer.send(np.ascontiguousarray(image[k : k + size[1]]))
    writer.close()
    return path


def files_of(folder: Path) -> dict[str, str]:
    """Path -> hash of every file that holds a result (locks and saved settings aside)."""
    kept = (p for p in folder.rglob("*") if p.is_file() and p.name not in ("lock", "config.yaml", "manifest.json"))
    return {str(p.relative_to(folder)): sha256_of(p) for p in kept}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A labelling folder with an earlier result in it."""
    folder = tmp_path / "out"
    clip = ClipFolder(folder / "clips" / "earlier")
    clip.write_source(ClipSource(id="earlier", path="/gone.mp4", sha256="0"))
    clip.begin("frames")
    write_json(clip.stage_dir("frames") / "x.json", [1])
    clip.finish(StageRecord(stage="frames", status="done", implementation="i", config_hash="c", inputs={}))
    return folder


def expect_refusal(capfd: pytest.CaptureFixture[str], arguments: list[str], *words: str) -> str:
    """Run the command; it must exit with 2 and end in one line that has all the words."""
    assert main(arguments) == 2
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    line = errors.strip().splitlines()[-1]
    assert line.startswith("footfall: ")
    for word in (*words, "expected"):
        assert word in line, f"{word!r} not in {line!r}"
    return line


def video_case(name: str, folder: Path) -> tuple[Path, str]:
    path = folder / f"{name}.mp4"
    if name == "missing":
        return path, "no such file"
    if name == "empty":
        path.touch()
        return path, "empty"
    if name == "text":
        path.write_text("this is not a video\n" * 50)
        return path, "video"
    if name == "truncated":
        data = write_video(path, 30).read_bytes()
        path.write_bytes(data[: len(data) // 2])
        return path, "video"
    frames = {"one_frame": 1, "nobody": 12}[name]
    return write_video(path, frames), {"one_frame": "1 frame", "nobody": "person"}[name]


@pytest.mark.parametrize("name", ["missing", "empty", "text", "truncated", "one_frame", "nobody"])
def test_bad_video(name: str, tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = files_of(out)
    path, word = video_case(name, tmp_path)
    expect_refusal(capfd, ["label", str(path), "--out", str(out), "in_process=true"], word)
    after = files_of(out)
    assert {k: after[k] for k in before} == before


def test_bad_video_does_not_stop_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good_until_people, _ = video_case("nobody", tmp_path)
    bad, _ = video_case("text", tmp_path)
    out = tmp_path / "out"
    expect_refusal(capfd, ["label", str(bad), str(good_until_people), "--out", str(out)], "1 more clip")
    assert ClipFolder(out / "clips" / "nobody").is_done("frames")
    record = ClipFolder(out / "clips" / "text").record("frames")
    assert record is not None
    assert record.status == "failed"
    assert record.reason


def test_output_folder_that_cannot_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "v.mp4", 12)
    (tmp_path / "file").touch()
    expect_refusal(capfd, ["label", str(video), "--out", str(tmp_path / "file" / "out")], "output folder")


def test_malformed_manifest_row(tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "v.mp4", 12)
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(
        json.dumps({"path": "v.mp4"}) + "\n" + json.dumps({"path": "v.mp4", "fpss": 3, "id": "b"}) + "\n"
    )
    before = files_of(out)
    expect_refusal(capfd, ["label", str(manifest), "--out", str(out)], "row 2", "did you mean 'fps'")
    assert files_of(out) == before


@pytest.mark.parametrize(
    ("override", "word"),
    [("optimise.stepz=3", "stepz"), ("people.use=nobody", "nobody"), ("workers=0", "workers"), ("workers=two", "two")],
)
def test_misspelt_setting(
    override: str, word: str, tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "v.mp4", 12)
    before = files_of(out)
    expect_refusal(capfd, ["label", str(video), "--out", str(out), override], word)
    after = files_of(out)
    assert {k: after[k] for k in before} == before


def test_status_of_a_folder_that_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expect_refusal(capfd, ["status", str(tmp_path)], "no clips/")


@pytest.mark.parametrize("verb", ["run", "export"])
def test_checkpoint_of_another_schema(verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    write_json(checkpoint / "config.json", {"format": "footfall-student/999"})
    (checkpoint / "model.safetensors").write_bytes(b"")
    video = write_video(tmp_path / "v.mp4", 12)
    arguments = {
        "run": ["run", str(video), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "o")],
        "export": ["export", str(checkpoint), "--format", "pt2", "--out", str(tmp_path / "o")],
    }[verb]
    expect_refusal(capfd, arguments, "999")
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())

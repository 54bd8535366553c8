import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from experiments.segment.frame_source import PictureFolder, VideoFile, open_source
from stg_pyg.errors import InputError
from stg_pyg.io import write_image

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 48, 64


def picture(t: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Red on the left, and a grey level that tells the frame."""
    frame = np.full((height, width, 3), 20 + 10 * t, np.uint8)
    frame[:, : width // 4] = (200, 0, 0)
    return frame


def make_folder(folder: Path, names: list[str]) -> Path:
    for t, name in enumerate(names):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(t)).save(folder / name)
    return folder


def make_video(path: Path, count: int = 6, fps: float = 25.0, code: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, (WIDTH, HEIGHT))
    for t in range(count):
        writer.write(np.ascontiguousarray(picture(t)[..., ::-1]))
    writer.release()
    return path


def turn(path: Path, quarters: int) -> None:
    """Rewrites the matrix in the track header of an MP4, as phones do that are held upright."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    one = 1 << 16
    turned = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = turned
    path.write_bytes(content)


def level(frame: np.ndarray) -> int:
    return round((float(frame[HEIGHT // 2, -4:].mean()) - 20) / 10)


def error(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(open_source(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder_in_natural_order(tmp_path):
    names = ["f2.png", "f10.bmp", "f9.jpg", "f11.TIFF", "f1.webp", "f30.jpeg", "f20.tif"]
    folder = make_folder(tmp_path / "clip", sorted(names, key=lambda n: int(n[1:].split(".")[0])))
    (folder / "._f3.jpg").write_bytes(b"finder")
    (folder / "notes.txt").write_text("not a frame")
    (folder / "f4.png").mkdir()
    source = open_source(folder)
    assert isinstance(source, PictureFolder)
    assert (source.name, source.size, source.num_frames, source.fps) == ("clip", (HEIGHT, WIDTH), 7, None)
    for _ in range(2):
        frames = list(source)
        assert [name for name, _ in frames] == ["f1", "f2", "f9", "f10", "f11", "f20", "f30"]
        assert [level(frame) for _, frame in frames] == list(range(7))
        assert all(frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8 for _, frame in frames)
    assert (source.position("f10"), source.position("f4"), source.frame_name(3), source.count()) == (3, None, "f10", 7)


def test_every_nth_picture(tmp_path):
    source = open_source(make_folder(tmp_path, [f"{t}.png" for t in range(7)]), every=3)
    assert [name for name, _ in source] == ["0", "3", "6"]
    assert (source.num_frames, source.count()) == (3, 7)


def test_pictures_with_an_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(0)).save(tmp_path / "0.jpg", exif=exif)
    source = open_source(tmp_path)
    assert source.size == (WIDTH, HEIGHT)
    ((_, frame),) = source
    assert frame.shape[:2] == (WIDTH, HEIGHT) and frame[2, HEIGHT // 2, 0] > 150, "the left side is on top"


def test_folder_errors(tmp_path):
    assert str(tmp_path / "none") in error(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "has no pictures" in error(tmp_path / "empty")
    folder = make_folder(tmp_path / "clip", ["0.png", "1.png", "2.png"])
    write_image(folder / "1.png", picture(1)[:40])
    message = error(folder)
    assert str(folder / "1.png") in message and "64 x 40" in message and "64 x 48" in message
    write_image(folder / "1.png", picture(1))
    write_image(folder / "1.jpg", picture(1))
    assert "1.png" in error(folder) and "1.jpg" in error(folder)
    (folder / "1.jpg").unlink()
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-30])
    assert str(folder / "1.png") in error(folder)
    (folder / "1.png").write_bytes(b"")
    assert str(folder / "1.png") in error(folder)
    assert "is one picture" in error(folder / "0.png")


def test_a_picture_cut_short_shows_when_it_is_reached(tmp_path):
    folder = make_folder(tmp_path, ["0.png", "1.png"])
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-30])
    frames = iter(open_source(folder))
    assert next(frames)[0] == "0"
    with pytest.raises(InputError, match=r"1\.png.*cut short"):
        next(frames)


@pytest.mark.parametrize(("code", "suffix"), [("MJPG", "avi"), ("mp4v", "mp4")])
def test_video(tmp_path, code, suffix):
    source = open_source(make_video(tmp_path / f"my.clip.{suffix}", code=code))
    assert isinstance(source, VideoFile)
    assert (source.name, source.size, source.num_frames) == ("my.clip", (HEIGHT, WIDTH), 6)
    assert source.fps == pytest.approx(25)
    for _ in range(2):
        frames = list(source)
        assert [name for name, _ in frames] == [f"{t:05d}" for t in range(6)]
        assert [level(frame) for _, frame in frames] == list(range(6))
    red, _, blue = frames[0][1][HEIGHT // 2, 4].astype(int)
    assert red > 150 and blue < 60, "RGB"
    assert (source.position("00004"), source.position("4"), source.position("x"), source.count()) == (4, None, None, 6)


def test_every_nth_frame_of_a_video(tmp_path):
    source = open_source(make_video(tmp_path / "clip.avi"), every=4)
    frames = list(source)
    assert [(name, level(frame)) for name, frame in frames] == [("00000", 0), ("00004", 4)]
    assert (source.num_frames, source.count()) == (2, 6)
    assert source.fps == pytest.approx(25 / 4)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_videos_are_upright(tmp_path, quarters):
    path = make_video(tmp_path / "clip.mp4", code="mp4v")
    turn(path, quarters)
    source = open_source(path)
    assert source.size == ((HEIGHT, WIDTH) if quarters == 2 else (WIDTH, HEIGHT))
    _, frame = next(iter(source))
    red = {1: frame[4, HEIGHT // 2], 2: frame[HEIGHT // 2, -4], 3: frame[-4, HEIGHT // 2]}[quarters]
    assert frame.shape[:2] == source.size and red[0] > 150 and red[1] < 60, "the left side, clockwise"


def test_frames_that_last_differently(tmp_path):
    """Frames are named by their place, none is repeated or left out, and the rate is that of the whole."""
    milliseconds = [100, 500, 100, 100, 900, 100]
    pictures = [Image.fromarray(picture(t)) for t in range(6)]
    path = tmp_path / "clip.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds)
    source = open_source(path)
    frames = list(source)
    assert [name for name, _ in frames] == [f"{t:05d}" for t in range(6)]
    assert [level(frame) for _, frame in frames] == list(range(6))
    assert len(frames) / source.fps == pytest.approx(sum(milliseconds) / 1000, rel=0.01)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("kind", ["folder", "video"])
def test_frames_from_further_on(tmp_path, kind, every):
    names = [f"{t:05d}" for t in range(6)]
    path = make_folder(tmp_path / "clip", [f"{n}.png" for n in names]) if kind == "folder" else None
    source = open_source(path or make_video(tmp_path / "clip.mp4", code="mp4v"), every)
    whole = list(source)
    for start in range(len(whole) + 2):
        rest = list(source.frames(start))
        assert [name for name, _ in rest] == names[::every][start:]
        for (_, frame), (_, expected) in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(frame, expected)


def test_a_video_cut_short_gives_what_it_has(tmp_path):
    path = make_video(tmp_path / "clip.avi", count=20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    source = open_source(path)
    count = len(list(source))
    assert 1 < count < 20 and source.count() == count


def test_frames_are_not_kept(tmp_path):
    """Reading goes along with iterating: what is not asked for is not decoded."""
    frames = iter(open_source(make_video(tmp_path / "clip.avi")))
    first = next(frames)[1]
    second = next(frames)[1]
    assert level(first) == 0 and level(second) == 1 and not np.shares_memory(first, second)


@pytest.mark.parametrize("content", [b"", b"just a text\n" * 40, "été\n".encode() * 2000, bytes(range(256)) * 40])
@pytest.mark.parametrize("name", ["clip.mp4", "notes.txt"])
def test_not_a_video(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    message = error(tmp_path / name)
    assert str(tmp_path / name) in message and "video" in message


def test_one_line_is_all_there_is_about_a_broken_video(tmp_path):
    path = make_video(tmp_path / "clip.mp4", code="mp4v")
    path.write_bytes(path.read_bytes()[:200])
    assert str(path) in error(path)
    program = "import pathlib, sys; from experiments import cli; from experiments.segment import frame_source as f\n"
    program += "cli.run(lambda: f.open_source(pathlib.Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(f"error: {path}")

import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from picture_cases import with_a_late_note
from PIL import Image

from stg_pyg.errors import InputError
from stg_pyg.utils.images import write_image
from stg_pyg.video.frames import PictureFolder, VideoFile, open_source

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


def draw_through(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Rewrites the matrix in the track header of an MP4, as phones do that are held upright or film their owner."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def write_frames(
    path: Path,
    codec: str,
    pixels: str,
    times: Sequence[int] = range(6),
    sound_between: int = 0,
    **options: str,
) -> Path:
    """Frames of :func:`picture` at times in 25ths of a second, and so many packets of sound before the last one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.time_base = Fraction(1, 25)
        sound = container.add_stream("pcm_s16le", rate=8000) if sound_between else None
        for t, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(t), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
            if sound is not None and t == len(times) - 2:
                for n in range(sound_between):
                    packet = av.Packet(bytes(320))
                    packet.stream, packet.time_base = sound, Fraction(1, 8000)
                    packet.pts = packet.dts = 160 * n
                    container.mux(packet)
        container.mux(stream.encode(None))
    return path


def level(frame: np.ndarray) -> int:
    return round((float(frame[HEIGHT // 2, -4:].mean()) - 20) / 10)


def error(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(open_source(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder_in_natural_order(tmp_path):
    names = ["f2.png", "f10.bmp", "f9.jfif", "f11.TIFF", "f1.webp", "f30.jpe", "f20.ppm", "f31.gif"]
    folder = make_folder(tmp_path / "clip", sorted(names, key=lambda n: int(n[1:].split(".")[0])))
    (folder / "._f3.jpg").write_bytes(b"finder")
    (folder / "notes.txt").write_text("not a frame")
    (folder / "masks").mkdir()
    source = open_source(folder)
    assert source.note == f"{folder} has 1 file that is no frame, notes.txt"
    assert isinstance(source, PictureFolder)
    assert (source.name, source.size, source.num_frames, source.fps) == ("clip", (HEIGHT, WIDTH), 8, None)
    for _ in range(2):
        frames = list(source)
        assert [name for name, _ in frames] == ["f1", "f2", "f9", "f10", "f11", "f20", "f30", "f31"]
        assert [level(frame) for _, frame in frames] == list(range(8))
        assert all(frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8 for _, frame in frames)
    assert (source.position("f10"), source.position("f4"), source.frame_name(3), source.count()) == (3, None, "f10", 8)


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_files_of_several_pictures_are_refused(tmp_path, suffix):
    pages = [Image.fromarray(picture(t)) for t in range(4)]
    (tmp_path / "clip").mkdir()
    pages[0].save(tmp_path / "clip" / f"0.{suffix}", save_all=True, append_images=pages[1:])
    assert f"0.{suffix}: holds 4 pictures; save each as a file of its own" in error(tmp_path / "clip")


def test_an_orientation_behind_the_pixels(tmp_path):
    for t in range(2):
        Image.fromarray(picture(t)).save(tmp_path / f"{t}.png")
        with_a_late_note(tmp_path / f"{t}.png", 6)
    source = open_source(tmp_path)
    assert source.size == (WIDTH, HEIGHT)
    assert all(frame.shape[:2] == source.size and frame[2, HEIGHT // 2, 0] > 150 for _, frame in source)


def test_deep_pictures_are_on_one_scale_and_said(tmp_path):
    for t, shift in enumerate((250, 3000)):
        Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) + np.uint16(shift)).save(tmp_path / f"{t}.png")
    source = open_source(tmp_path)
    assert "pixels of more than 8 bits a channel, of which 4095 is taken for white" in source.note
    assert [round(float(frame.mean())) for _, frame in source] == [16, 187]
    Image.fromarray(np.full((3, 4), 1 << 20, np.int32)).save(tmp_path / "2.tif")
    assert "has values up to 1.04858e+06" in error(tmp_path)


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
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to(folder / "nowhere.png")
    assert f"{folder / '1.png'}: has the name of a frame and is a broken link" in error(folder)
    (folder / "1.png").unlink()
    (folder / "1.png").mkdir()
    assert f"{folder / '1.png'}: has the name of a frame and is a folder" in error(folder)


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


MATRICES = {
    "turned to the right": (0, 1, -1, 0, "top"),
    "on its head": (-1, 0, 0, -1, "right"),
    "turned to the left": (0, -1, 1, 0, "bottom"),
    "mirrored": (-1, 0, 0, 1, "right"),
    "mirrored and turned to the left": (0, -1, -1, 0, "bottom"),
}


@pytest.mark.parametrize("name", MATRICES)
def test_videos_are_upright(tmp_path, name):
    """The red left side is where the matrix puts it, and the blue upper right corner too."""
    *matrix, side = MATRICES[name]
    a, b, c, d = matrix
    frame = picture(0)
    frame[:12, -16:] = (0, 0, 200)
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
    writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    draw_through(path, a, b, c, d)
    source = open_source(path)
    assert source.size == ((HEIGHT, WIDTH) if a else (WIDTH, HEIGHT))
    ((_, found),) = source
    height, width = found.shape[:2]
    middle = {"left": (height // 2, 4), "right": (height // 2, -4), "top": (4, width // 2), "bottom": (-4, width // 2)}
    red = found[middle[side]]
    assert red[0] > 150 and red[1] < 60
    # The corner (1, -1) of y downwards goes where the matrix takes it.
    x, y = a - c, b - d
    blue = found[4 if y < 0 else -4, 4 if x < 0 else -4]
    assert blue[2] > 150 and blue[0] < 60


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("kind", ["folder", "video"])
def test_frames_from_further_on(tmp_path, kind, every):
    names = [f"{t:05d}" for t in range(6)]
    path = make_folder(tmp_path / "clip", [f"{n}.png" for n in names]) if kind == "folder" else None
    source = open_source(path or make_video(tmp_path / "clip.mp4", code="mp4v"), every)
    whole = list(source)
    assert (source.num_frames, source.count()) == (6 // every, 6)
    assert source.fps == (None if kind == "folder" else pytest.approx(25 / every))
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
    assert source.losses() == f"{path} says it has 20 frames and {count} can be decoded; is it complete?"


def test_a_still_with_sound_before_the_next_frame(tmp_path):
    """Frames are counted, however long one is shown and however much else is between it and the next."""
    path = write_frames(tmp_path / "screen.mov", "mjpeg", "yuvj420p", [0, 1, 2, 3, 2100], sound_between=4200)
    source = open_source(path)
    assert [level(frame) for _, frame in source] == list(range(5))
    assert (source.count(), source.losses()) == (5, "")


def test_gaps_in_files_that_do_not_count_their_frames_are_told(tmp_path):
    times = [t for t in range(24) if t != 20]
    source = open_source(write_frames(tmp_path / "clip.ts", "mpeg2video", "yuv420p", times))
    assert [name for name, _ in source] == [f"{t:05d}" for t in range(23)]
    assert source.losses() == f"{source.path} has 23 frames in the time of 24; are some lost, or shown for longer?"
    assert open_source(write_frames(tmp_path / "whole.ts", "mpeg2video", "yuv420p", range(24))).losses() == ""
    slow = open_source(write_frames(tmp_path / "slow.ts", "mpeg2video", "yuv420p", [0, 1, 4, 9, 11, 15]))
    assert "has 6 frames in the time of 16" in slow.losses()


def test_the_end_of_a_long_file_that_was_cut_short_is_told(tmp_path):
    """Few frames of many are lost, and no packet is broken: only the end that the file states tells."""
    path = write_frames(tmp_path / "clip.mkv", "mjpeg", "yuvj420p", range(24))
    assert (open_source(path).count(), open_source(path).losses()) == (24, "")
    with av.open(str(path)) as container:
        start = [packet.pos for packet in container.demux(video=0) if packet.pos][-2]
    path.write_bytes(path.read_bytes()[:start])
    source = open_source(path)
    assert source.count() == 22
    assert source.losses() == f"{path} has 22 frames in the time of 24; are some lost, or shown for longer?"


def test_damage_in_the_middle_is_told_with_both_numbers(tmp_path):
    path = write_frames(tmp_path / "clip.mp4", "libx264", "yuv420p", range(12))
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[middle : middle + 60] = bytes(60)
    path.write_bytes(content)
    source = open_source(path)
    found = len(list(source))
    assert 0 < found < 12
    assert source.losses() == f"{path} says it has 12 frames and {found} can be decoded; is it complete?"


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels"),
    [
        ("mp4", "libx264", "yuv420p10le"),
        ("webm", "libvpx-vp9", "yuva420p"),
        ("mov", "qtrle", "argb"),
        ("mkv", "ffv1", "yuv444p16le"),
    ],
)
def test_pixels_of_all_kinds(tmp_path, suffix, codec, pixels):
    source = open_source(write_frames(tmp_path / f"clip.{suffix}", codec, pixels))
    frames = [frame for _, frame in source]
    assert [level(frame) for frame in frames] == list(range(6))
    assert np.abs(frames[0][HEIGHT // 2, 4].astype(int) - (200, 0, 0)).max() < 10
    assert source.losses() == "" and source.fps == 25


@pytest.mark.parametrize("name", ["a:b.mp4", "%03d [x].mp4", b"caf\xe9.mp4"])
def test_names_that_mean_something_elsewhere(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    os.rename(make_video(tmp_path / "clip.mp4", count=3, code="mp4v"), path)
    assert [level(frame) for _, frame in open_source(path)] == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"just a text\n" * 40, "été\n".encode() * 2000, bytes(range(256)) * 40])
@pytest.mark.parametrize("name", ["clip.mp4", "notes.txt"])
def test_not_a_video(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    message = error(tmp_path / name)
    assert str(tmp_path / name) in message and "video" in message


def test_one_line_is_all_there_is_about_a_broken_video(tmp_path, capfd):
    path = make_video(tmp_path / "clip.mp4", code="mp4v")
    path.write_bytes(path.read_bytes()[:200])
    capfd.readouterr()
    assert str(path) in error(path)
    assert capfd.readouterr() == ("", ""), "FFmpeg says nothing itself"

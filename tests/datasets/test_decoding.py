"""Files nobody vouches for: each ends decoded or quarantined, in bounds, and the others go on."""

import csv
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from datasets.decoding import Decoded, Task, decode_all
from datasets.limits import Limits
from datasets.preprocessing import resolve
from tests.datasets.hostile import HOSTILE
from tests.datasets.miniatures import picture, write_dicom, write_png

MEGABYTE = 2**20
pytestmark = pytest.mark.slow  # nearly every test decodes in processes of its own


def _decode(
    paths: list[Path], *, resolution: int = 64, workers: int = 1, limits: Limits | None = None
) -> list[Decoded]:
    tasks = (Task(row, path, "standard", (resolution,)) for row, path in enumerate(paths))
    return sorted(decode_all(tasks, workers=workers, limits=limits), key=lambda result: result.row)


def _peak_and_cpu(path: Path, limits: Limits) -> tuple[Decoded, float, float]:
    """Decode one file in a fresh worker; return the result, its peak memory in MB and its processor seconds."""
    results: Iterator[Decoded] = decode_all(iter([Task(0, path, "standard", (512,))]), limits=limits)
    peak, children, done = 0.0, {}, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            for child in psutil.Process().children():
                try:
                    # Between fork and exec a child still counts its parent's memory, which is this whole suite's.
                    if "datasets.decode_worker" not in child.cmdline():
                        continue
                    peak = max(peak, child.memory_info().rss)
                    children[child.pid] = sum(child.cpu_times()[:2])
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        (result,) = list(results)
    finally:
        done.set()
        watcher.join()
    return result, peak / MEGABYTE, max(children.values(), default=0)


@pytest.mark.parametrize("build", HOSTILE, ids=lambda build: build.__name__)
def test_hostile_files_end_with_a_reason_within_bounds(build, tmp_path: Path):
    path = tmp_path / "hostile"
    pattern = build(path)
    result, peak, seconds = _peak_and_cpu(path, Limits())
    if pattern:
        assert result.reason is not None
        assert re.search(pattern, result.reason)
    assert peak < 512
    assert seconds < 2 + 1.5  # the file's own two seconds, and the start of the worker


def test_the_others_go_on(tmp_path: Path):
    paths = []
    for number, build in enumerate(HOSTILE):
        paths += [tmp_path / f"{number}.bad", tmp_path / f"{number}.good"]
        build(paths[-2])
        (write_png if number % 2 else write_dicom)(paths[-1], picture(number))
    results = _decode(paths, workers=2)
    assert [result.row for result in results] == list(range(len(paths)))
    assert all(result.reason is None for result in results[1::2])
    assert sum(result.reason is not None for result in results[::2]) >= len(HOSTILE) - 4


def test_every_sample_is_decoded_or_gets_a_reason_within_two_seconds(shared_data: Path):
    folder = shared_data / "dicom_samples"
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    results = _decode([folder / row["file"] for row in rows], resolution=512)
    decoded = {row["file"]: result.reason is None for row, result in zip(rows, results, strict=True)}
    unexplained = [result.row for result in results if result.reason is not None and not result.reason]
    assert not unexplained
    assert all(good for name, good in decoded.items() if name.startswith("chest/"))
    codecs = {name: good for name, good in decoded.items() if name.startswith("radiograph_codecs/")}
    assert [name for name, good in codecs.items() if not good] == [
        "radiograph_codecs/RG3_JPLY.dcm",  # 12-bit lossy JPEG, which no decoder here reads
        "radiograph_codecs/RG2_JPLY.dcm",
    ]
    assert not any("killed" in (result.reason or "") for result in results)


def test_lossless_encodings_of_one_radiograph_give_one_square(shared_data: Path):
    folder = shared_data / "dicom_samples" / "radiograph_codecs"
    results = _decode([folder / f"RG3_{name}.dcm" for name in ("UNC", "RLE", "JPLL", "JLSL")], resolution=256)
    for result in results[1:]:
        np.testing.assert_array_equal(result.squares[0], results[0].squares[0])


def test_a_file_that_takes_too_long_ends_its_worker_only(tmp_path: Path):
    slow, good = tmp_path / "slow", tmp_path / "good"
    write_dicom(slow, picture(1, 2400))
    write_png(good, picture(2))
    results = _decode([slow, good, slow, good], limits=Limits(seconds=0.02))
    assert results[0].reason == "needs more than 0.02 s of processor time"
    assert [result.reason is None for result in results] == [False, True, False, True]


def test_a_file_that_needs_too_much_memory_gets_a_reason(tmp_path: Path):
    large = tmp_path / "large"
    write_dicom(large, picture(1, 4096))
    (result,) = _decode([large], limits=Limits(memory=190 * MEGABYTE))
    assert "share of memory" in (result.reason or "")


def test_a_file_that_never_comes_is_given_up(tmp_path: Path):
    pipe, good = tmp_path / "pipe", tmp_path / "good"
    os.mkfifo(pipe)
    write_png(good, picture(2))
    results = _decode([pipe, good], limits=Limits(wall_seconds=0.5))
    assert (results[0].reason or "").startswith("gave no answer within 0.5 s")
    assert results[1].reason is None


def test_workers_end_with_the_process_that_started_them(tmp_path: Path):
    write_png(tmp_path / "a", picture(1))
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom datasets.decoding import Task, decode_all\n"
        f"results = decode_all(Task(i, Path({str(tmp_path / 'a')!r}), 'standard', (16,)) for i in range(10**9))\n"
        "next(results); print('going', flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"going\n"
    children = psutil.Process(parent.pid).children()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert children
    assert not alive


def test_leaving_early_ends_the_workers(tmp_path: Path):
    write_png(tmp_path / "a", picture(1))
    before = set(psutil.Process().children())
    results = decode_all((Task(i, tmp_path / "a", "standard", (16,)) for i in range(10**9)), workers=2)
    next(results)
    workers = set(psutil.Process().children()) - before
    results.close()  # type: ignore[attr-defined]
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert workers
    assert not alive


def test_several_resolutions_at_once_are_what_each_is_alone(shared_data: Path):
    path = shared_data / "dicom_samples" / "radiograph_codecs" / "RG2_J2KR.dcm"
    (both,) = list(decode_all([Task(0, path, "standard", (512, 128))]))
    for resolution, square in zip((512, 128), both.squares, strict=True):
        (alone,) = _decode([path], resolution=resolution)
        np.testing.assert_array_equal(square, alone.squares[0])


@pytest.mark.parametrize(
    ("build", "limits", "again"),
    [
        (lambda path: None, Limits(), True),  # not there (any more)
        (lambda path: path.mkdir(), Limits(), True),  # another error of the system, as no permission would be
        (os.mkfifo, Limits(wall_seconds=0.5), True),
        (lambda path: write_dicom(path, picture(1, 2400)), Limits(seconds=0.02), True),
        (lambda path: write_dicom(path, picture(1, 4096)), Limits(memory=190 * MEGABYTE), True),
        (lambda path: path.write_bytes(b"not an image"), Limits(), False),
        (lambda path: path.write_bytes(b""), Limits(), False),
        (lambda path: write_png(path, picture(1, 100)), Limits(pixels=99), False),
    ],
    ids=["missing", "system", "no answer", "time", "memory", "no image", "empty", "too large"],
)
def test_only_what_lies_with_the_disk_or_the_machine_is_to_be_tried_again(tmp_path: Path, build, limits, again):
    build(tmp_path / "file")
    (result,) = _decode([tmp_path / "file"], limits=limits)
    assert result.reason is not None
    assert result.again is again


def test_reasons_name_no_file(tmp_path: Path):
    paths = []
    for build in HOSTILE:
        paths.append(tmp_path / f"Muster^Erika-{build.__name__}.dcm")
        build(paths[-1])
    for result in _decode(paths):
        assert "Muster" not in (result.reason or "")
        assert str(tmp_path) not in (result.reason or "")


def test_effort_gives_a_slower_preparation_more_time():
    assert resolve("paper").effort > resolve("standard").effort

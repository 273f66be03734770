import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from folders import LEADS

from ecgexp.datasets import cache, reading
from ecgexp.datasets.ecg import signals
from ecgexp.datasets.ecg.signals import cached_signals
from ecgexp.errors import UserError

LAYOUT = {"lead_names": tuple(LEADS), "sampling_rate": 100, "samples": 1000, "exact": True}
FILES = [f"records100/00000/{i:05d}_lr" for i in range(1, 21)]

READ = f"""
import sys
from pathlib import Path
from ecgexp.datasets.ecg import signals
root, cache_dir = map(Path, sys.argv[1:3])
files = {FILES!r}
layout = {LAYOUT!r}
"""


def read(folder, tmp_path: Path, workers: int = 1, files: list[str] = FILES, **layout):
    return cached_signals(folder.root, files, {**LAYOUT, **layout}, tmp_path / "cache", workers)


def child(code: str, folder, tmp_path: Path) -> subprocess.Popen:
    arguments = [sys.executable, "-c", READ + code, str(folder.root), str(tmp_path / "cache")]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def arrays(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*.npy"))


def test_signals_in_order_and_read_only(folder, tmp_path):
    signals = read(folder, tmp_path)
    expected = np.stack([folder.signals[i] for i in range(1, 21)])
    np.testing.assert_allclose(signals.array, expected, atol=1e-6)
    assert signals.array.dtype == np.float32
    assert isinstance(signals.array, np.memmap) and not signals.array.flags.writeable
    assert len(set(signals.hashes)) == 20
    assert (signals.problems, signals.notes) == ({}, {})


def test_the_second_time_nothing_is_read(folder, tmp_path, monkeypatch):
    first = read(folder, tmp_path)
    monkeypatch.setattr(signals, "read_record", None)
    second = read(folder, tmp_path)
    np.testing.assert_array_equal(first.array, second.array)
    assert first.hashes == second.hashes
    assert len(arrays(tmp_path)) == 1


@pytest.mark.parametrize("change", ["content", "size", "name", "options"])
def test_changed_files_or_options_are_read_again(folder, tmp_path, change):
    read(folder, tmp_path)
    data = folder.path(3).with_suffix(".dat")
    files, layout = FILES, {}
    if change == "content":
        old = data.stat()
        folder.write(3, np.random.default_rng(9).normal(size=(1000, 12)))
        assert data.stat().st_size == old.st_size
        os.utime(data, ns=(old.st_atime_ns, old.st_mtime_ns))
    elif change == "size":
        data.write_bytes(data.read_bytes() + b"\0\0")
    elif change == "name":
        files = [*FILES[1:], FILES[0]]
    elif change == "options":
        layout = {"samples": 500, "exact": False}
    read(folder, tmp_path, files=files, **layout)
    assert len(arrays(tmp_path)) == 2


def test_a_moved_or_copied_folder_other_files_and_new_times_leave_it_valid(folder, tmp_path, monkeypatch):
    first = read(folder, tmp_path)
    monkeypatch.setattr(signals, "read_record", None)
    (folder.path(1).parent / "notes.txt").write_text("x")
    folder.path(20).with_name("00021_lr.dat").touch()
    folder.path(3).with_suffix(".dat").touch()
    folder.root = folder.root.rename(tmp_path / "elsewhere")
    read(folder, tmp_path)
    folder.root = shutil.copytree(folder.root, tmp_path / "copy", copy_function=shutil.copyfile)
    np.testing.assert_array_equal(read(folder, tmp_path).array, first.array)
    assert len(arrays(tmp_path)) == 1


def test_bad_records_are_kept_with_their_reason(folder, tmp_path):
    folder.path(2).with_suffix(".dat").unlink()
    for _ in range(2):  # read, then from the cache
        signals = read(folder, tmp_path)
        assert signals.problems == {1: "the signal file 00002_lr.dat is missing"}
        assert not signals.array[1].any()
        assert signals.hashes[1] == ""


@pytest.mark.slow
def test_processes_read_what_one_reads(folder, tmp_path, monkeypatch):
    folder.path(2).with_suffix(".dat").unlink()
    monkeypatch.setattr(signals, "WORTH_A_PROCESS", 10)
    monkeypatch.setattr(reading, "CHUNK", 3)
    parallel = cached_signals(folder.root, FILES, LAYOUT, tmp_path / "parallel", workers=2)
    alone = cached_signals(folder.root, FILES, LAYOUT, tmp_path / "alone", workers=1)
    np.testing.assert_array_equal(parallel.array, alone.array)
    assert (parallel.hashes, parallel.problems) == (alone.hashes, alone.problems)
    both = [next((tmp_path / name).glob("*.npy")) for name in ("parallel", "alone")]
    assert both[0].name == both[1].name
    assert both[0].read_bytes() == both[1].read_bytes()


@pytest.mark.slow
def test_two_processes_at_once(folder, tmp_path):
    code = "print(signals.cached_signals(root, files, layout, cache_dir, 1).array.sum())"
    both = [child(code, folder, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    suffixes = sorted("".join(path.suffixes) for path in (tmp_path / "cache").iterdir())
    assert suffixes == [".files.json", ".json", ".npy"]


INTERRUPTED = """
import signal
read_record, left = signals.read_record, [10]
def stuck(*args, **kwargs):
    left[0] -= 1
    if not left[0]:
        print("half", flush=True)
        signal.pause()
    return read_record(*args, **kwargs)
signals.read_record = stuck
signals.cached_signals(root, files, layout, cache_dir, 1)
"""


def test_a_killed_process_leaves_nothing_that_is_taken_for_a_cache(folder, tmp_path):
    with child(INTERRUPTED, folder, tmp_path) as process:
        assert process.stdout.readline() == "half\n"
        process.kill()
    assert arrays(tmp_path) == []
    (leftover,) = (tmp_path / "cache").glob(".*.tmp")
    os.utime(leftover, (time.time() - 2 * cache.STALE,) * 2)
    fresh = tmp_path / "cache/.other.npy.tmp"  # of a process that is still at work
    fresh.touch()
    assert len(read(folder, tmp_path).array) == 20
    assert not leftover.exists()
    assert fresh.exists()


def test_ctrl_c_leaves_nothing(folder, tmp_path):
    with child(INTERRUPTED, folder, tmp_path) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.stderr.read()
    assert process.returncode != 0
    assert [path for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".files.json")] == []


@pytest.mark.slow
def test_ctrl_c_ends_the_reading_processes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "WORTH_A_PROCESS", 10)
    monkeypatch.setattr(reading, "CHUNK", 1)

    class Interrupted(reading.tqdm):
        def update(self, n):
            raise KeyboardInterrupt

    monkeypatch.setattr(reading, "tqdm", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(folder, tmp_path, workers=2)
    assert multiprocessing.active_children() == []
    assert arrays(tmp_path) == []


@pytest.mark.parametrize("cut", [0, -100])
@pytest.mark.parametrize("pattern", ["*.npy", "????????????????????????????????.json", "*.files.json"])
def test_a_truncated_cache_is_read_again(folder, tmp_path, pattern, cut, caplog):
    first = read(folder, tmp_path)
    expected, hashes = np.array(first.array), first.hashes
    (path,) = (tmp_path / "cache").glob(pattern)
    path.write_bytes(path.read_bytes()[:cut])
    second = read(folder, tmp_path)
    np.testing.assert_array_equal(second.array, expected)
    assert second.hashes == hashes
    assert f"{path} is damaged and not used: it is made again." in caplog.text
    caplog.clear()
    read(folder, tmp_path)
    assert caplog.text == ""


@pytest.mark.slow
@pytest.mark.parametrize("keep_times", [False, True])
@pytest.mark.parametrize("pattern", ["*.npy", "????????????????????????????????.json", "*.files.json"])
def test_a_flipped_bit_in_the_cache_changes_no_number(folder, tmp_path, pattern, keep_times, caplog):
    first = read(folder, tmp_path)
    expected, hashes = np.array(first.array), first.hashes
    rng = np.random.default_rng(0)
    for _ in range(20):
        (path,) = (tmp_path / "cache").glob(pattern)
        before, content = path.stat(), bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        with path.open("r+b") as file:
            file.write(content)
        if keep_times:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        caplog.clear()
        second = read(folder, tmp_path)
        np.testing.assert_array_equal(second.array, expected)
        assert second.hashes == hashes
        assert "is damaged" in caplog.text


def test_an_array_is_compared_once_after_its_file_was_touched(folder, tmp_path, monkeypatch):
    read(folder, tmp_path)
    compared = []
    checksum = cache._checksum
    monkeypatch.setattr(cache, "_checksum", lambda path: compared.append(path) or checksum(path))
    read(folder, tmp_path)
    assert compared == []
    (array,) = arrays(tmp_path)
    array.touch()
    read(folder, tmp_path)
    read(folder, tmp_path)
    assert compared == [array]


def test_new_times_while_files_are_read_do_no_harm(folder, tmp_path, monkeypatch):
    read_record = signals.read_record

    def meanwhile(path, **layout):
        path.with_suffix(".dat").touch()
        return read_record(path, **layout)

    monkeypatch.setattr(signals, "read_record", meanwhile)
    assert len(read(folder, tmp_path).array) == 20


def test_a_file_that_changes_while_it_is_read(folder, tmp_path, monkeypatch):
    read_record = signals.read_record

    def meanwhile(path, **layout):
        if path.name == "00002_lr":
            folder.write(1, np.random.default_rng(9).normal(size=(1000, 12)))
        return read_record(path, **layout)

    monkeypatch.setattr(signals, "read_record", meanwhile)
    with pytest.raises(UserError, match=r"^Files in .*ptbxl changed while they were read: start again .*\.$"):
        read(folder, tmp_path)
    assert arrays(tmp_path) == []
    monkeypatch.undo()
    found = read(folder, tmp_path)
    np.testing.assert_allclose(found.array[0], np.round(np.random.default_rng(9).normal(size=(1000, 12)), 3), atol=1e-6)


def test_a_cache_that_cannot_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match=r"The cache .*cache cannot be used .*dataset\.cache_dir"):
        read(folder, tmp_path)
    (tmp_path / "cache").unlink()
    usage = cache.shutil.disk_usage(tmp_path)._replace(free=20 * 1000 * 12 * 4 - 1)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"0\.0 GB are needed and less is free"):
        read(folder, tmp_path)
    assert arrays(tmp_path) == []

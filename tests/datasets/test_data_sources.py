"""The hash of the source files of records detects any change of contents, even with equal names, sizes and times."""

import os
import shutil
import time
from pathlib import Path

import folders
import numpy as np
import pytest

from ecgexp.datasets import files
from ecgexp.datasets.ecg.headers import named_files
from ecgexp.datasets.ecg.signals import cached_signals
from ecgexp.datasets.files import Sources

LAYOUT = {"lead_names": ("I",), "sampling_rate": 100.0, "samples": 100, "exact": False}


def sources(root, records, cache_dir):
    return Sources(root, records, cache_dir, (".hea",), {".hea": named_files})


def write_record(path: Path, signal: np.ndarray, leads: list[str], rate: float) -> None:
    """A record without initial values and checksums in its header, which would give other contents away."""
    folders.write_record(path, signal, leads, rate)
    first, *lines = path.with_suffix(".hea").read_text().splitlines()
    without = [" ".join([*line.split()[:5], "0", "0", *line.split()[7:]]) for line in lines]
    path.with_suffix(".hea").write_text("\n".join([first, *without]) + "\n")


def ramp(k: int) -> np.ndarray:
    return k + np.arange(100)[:, None] / 1000


def signals(root: Path, tmp_path: Path, *records: str):
    found = cached_signals(root, records, LAYOUT, tmp_path / "cache", workers=1)
    assert not found.problems
    return found


def rename_signal_file(root: Path, record: str, name: str) -> Path:
    header = root / f"{record}.hea"
    header.write_text(header.read_text().replace(f"{Path(record).name}.dat", name))
    return (root / f"{record}.dat").rename((root / record).with_name(name))


def replace_keeping_size_and_time(target: Path, k: int) -> None:
    """Other contents of the same size and time, as an archive or ``cp -p`` may bring them."""
    before = target.stat()
    target.write_bytes(np.round(ramp(k)[:, 0] * 1000).astype("<i2").tobytes())
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (target.stat().st_size, target.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_signal_file_of_another_name(tmp_path):
    root = tmp_path / "data"
    write_record(root / "a/r01", ramp(1), ["I"], 100)
    file = rename_signal_file(root, "a/r01", "sig01.dat")
    first = signals(root, tmp_path, "a/r01")
    replace_keeping_size_and_time(file, 2)
    second = signals(root, tmp_path, "a/r01")
    np.testing.assert_allclose(first.array[0], ramp(1), atol=1e-6)
    np.testing.assert_allclose(second.array[0], ramp(2), atol=1e-6)
    assert first.hashes != second.hashes


def test_segments_of_a_multi_segment_record(tmp_path):
    root = tmp_path / "data"
    for name, k in (("first", 1), ("second", 2)):
        write_record(root / name, ramp(k)[:50], ["I"], 100)
    (root / "whole.hea").write_text("whole/2 1 100 100\nfirst 50\nsecond 50\n")
    expected = np.concatenate([ramp(1)[:50], ramp(2)[:50]])
    np.testing.assert_allclose(signals(root, tmp_path, "whole").array[0], expected, atol=1e-6)
    before = (root / "second.dat").stat()
    write_record(root / "second", ramp(7)[:50], ["I"], 100)
    os.utime(root / "second.dat", ns=(before.st_atime_ns, before.st_mtime_ns))
    expected[50:] = ramp(7)[:50]
    np.testing.assert_allclose(signals(root, tmp_path, "whole").array[0], expected, atol=1e-6)


def test_copies_of_equal_size_and_time(tmp_path):
    """Two folders that differ only in the contents of files; one replaces the other."""
    for name, k in (("x", 1), ("y", 2)):
        write_record(tmp_path / name / "r", ramp(k), ["I"], 100)
        for file in (tmp_path / name).iterdir():
            os.utime(file, ns=(10**18, 10**18))
    root = tmp_path / "data"
    for name, k in (("x", 1), ("y", 2), ("x", 1)):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(tmp_path / name, root)  # times go along
        np.testing.assert_allclose(signals(root, tmp_path, "r").array[0], ramp(k), atol=1e-6)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_the_target_of_a_link_counts(tmp_path):
    store = tmp_path / "store"
    for k in (1, 2):
        write_record(store / str(k) / "r", ramp(k), ["I"], 100)
        for file in (store / str(k)).iterdir():
            os.utime(file, ns=(10**18, 10**18))
    root = tmp_path / "data"
    root.mkdir()
    (root / "r.hea").symlink_to(store / "1/r.hea")
    for k in (1, 2):
        (root / "r.dat").unlink(missing_ok=True)
        (root / "r.dat").symlink_to(store / str(k) / "r.dat")
        np.testing.assert_allclose(signals(root, tmp_path, "r").array[0], ramp(k), atol=1e-6)
    replace_keeping_size_and_time(store / "2/r.dat", 3)
    np.testing.assert_allclose(signals(root, tmp_path, "r").array[0], ramp(3), atol=1e-6)


def test_a_file_that_is_written_twice_within_a_tick_of_the_clock(tmp_path):
    root = tmp_path / "data"
    write_record(root / "r", ramp(1), ["I"], 100)
    for k in range(20):
        replace_keeping_size_and_time(root / "r.dat", k)
        np.testing.assert_allclose(signals(root, tmp_path, "r").array[0], ramp(k), atol=1e-6)


def test_contents_are_hashed_once(tmp_path, monkeypatch):
    write_record(tmp_path / "data/r", ramp(1), ["I"], 100)
    first = sources(tmp_path / "data", ["r"], tmp_path / "cache")
    monkeypatch.setattr(files, "_hash", None)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert sources(tmp_path / "data", ["r"], tmp_path / "cache").content == first.content
    assert sources(tmp_path / "link", ["r"], tmp_path / "cache").content == first.content


def test_contents_of_files_elsewhere_are_hashed_once(tmp_path, monkeypatch):
    write_record(tmp_path / "elsewhere/r", ramp(1), ["I"], 100)
    records = [str(tmp_path / "elsewhere/r"), "../elsewhere/r"]
    first = sources(tmp_path / "data", records, tmp_path / "cache")
    monkeypatch.setattr(files, "_hash", None)
    assert sources(tmp_path / "data", records, tmp_path / "cache").content == first.content


def test_contents_are_hashed_where_nothing_can_be_remembered(tmp_path):
    write_record(tmp_path / "data/r", ramp(1), ["I"], 100)
    (tmp_path / "file").touch()
    first = sources(tmp_path / "data", ["r"], tmp_path / "cache")
    assert sources(tmp_path / "data", ["r"], tmp_path / "file").content == first.content


HEADERS = {
    "empty": b"",
    "one word": b"r",
    "no names": b"r 1 100\n~ 16\n- 16\n",
    "its own segment": b"r/1 1 100 9\nr 9\n",
    "no name for a file": b"r 1 100\na\0b.dat 16\n",
    "no text": b"\xff\xfe 1\n\xb5 16\n",
    "blanks of other kinds": b"\x1c\n\xa0\n\xc2\xa0 1\n",
    "too long a name": b"r 1\n" + b"x" * 5000,
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_any_header_has_a_hash(tmp_path, header):
    (tmp_path / "r.hea").write_bytes(header)
    first = sources(tmp_path, ["r", "no\0name", "x" * 5000], tmp_path / "cache").content
    assert sources(tmp_path, ["r", "no\0name", "x" * 5000], tmp_path / "cache").content == first


def test_what_is_no_file_is_not_waited_for(tmp_path):
    (tmp_path / "r.hea").write_text("r 1 100\npipe 16\n")
    os.mkfifo(tmp_path / "pipe")
    assert sources(tmp_path, ["r"], tmp_path / "cache").content


@pytest.mark.slow
def test_a_folder_of_full_size_is_checked_in_a_second(tmp_path):
    records = [f"{i // 1000:05d}/{i:05d}_lr" for i in range(21_799)]
    for record in records:
        path = tmp_path / "data" / record
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".hea").write_text(f"{path.name} 1 100 1000\n{path.name}.dat 16\n")
        path.with_suffix(".dat").write_text(record)
    first = sources(tmp_path / "data", records, tmp_path / "cache").content
    start = time.process_time()
    assert sources(tmp_path / "data", records, tmp_path / "cache").content == first
    assert time.process_time() - start < 1

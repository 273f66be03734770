"""Generated records of every kind, as they were written and as wfdb reads them.

wfdb decodes the rare formats for `read_record`, too, so that only what was written tells that these are right.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import wfdb
from folders import write_record

from ecgexp.datasets import read_record
from ecgexp.datasets.ecg.records import RecordError

GAINS = {
    "200": (200, None, 1),
    "1000.5(12)": (1000.5, 12, 1),
    "-4.5e1(-300)/mV": (-45, -300, 1),
    "13(5)/uV": (13, 5, 1e-3),
    "0.25/V": (0.25, None, 1e3),
}
"""Steps per unit, baseline, which the zero of the converter stands for where there is none, and mV in a unit."""
BITS = {"8": 8, "16": 16, "24": 24, "32": 31, "61": 16, "80": 8, "160": 16, "212": 12, "310": 10, "311": 10}


def packed(fmt: str, values: np.ndarray) -> bytes:
    """Samples in the order of the file, as its bytes."""
    plain = {"16": "<i2", "32": "<i4", "61": ">i2", "8": "i1"}
    if fmt in plain:
        return values.astype(plain[fmt]).tobytes()
    if fmt in ("80", "160"):
        return (values + (1 << BITS[fmt] - 1)).astype({"80": "u1", "160": "<u2"}[fmt]).tobytes()
    if fmt == "24":
        return values.astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes()
    group = 2 if fmt == "212" else 3
    unsigned = np.pad(values, (0, -len(values) % group)) & (1 << BITS[fmt]) - 1
    a, b, *c = unsigned.reshape(-1, group).T
    if fmt == "212":
        data = np.stack([a & 255, a >> 8 | b >> 8 << 4, b & 255], axis=1)
    elif fmt == "310":
        low, high = (a & 1023) << 1 | (c[0] & 31) << 11, (b & 1023) << 1 | c[0] >> 5 << 11
        data = np.stack([low & 255, low >> 8, high & 255, high >> 8], axis=1)
    else:
        word = a | b << 10 | c[0] << 20
        data = np.stack([word >> 8 * i & 255 for i in range(4)], axis=1)
    return data.astype("u1").tobytes()


def write(path: Path, rng: np.random.Generator) -> tuple[list[str], list[int], list[np.ndarray]]:
    """A record of one to three signal files; names of its leads, samples per frame and mV of each."""
    frames, rate = int(rng.integers(2, 400)), rng.choice(["100", "360", "62.5", "128/16(0)"])
    lines, names, counts, signals = [], [], [], []
    for file in range(rng.integers(1, 4)):
        fmt = str(rng.choice(list(BITS)))
        offset = int(rng.choice([0, 0, 24]))
        frame = []
        for _ in range(rng.integers(1, 4)):
            per_frame = int(rng.choice([1, 1, 2, 5]))
            skew = 0 if fmt == "8" else int(rng.choice([0, 0, 0, 1]))  # wfdb has no skew in format 8
            high = 1 << BITS[fmt] - 1
            values = rng.integers(1 - high, high, (frames, per_frame))
            stored = values
            if fmt == "8":
                stored = rng.integers(-128, 128, (frames, per_frame))
                stored[0, 0] = 0
                values = np.cumsum(stored.reshape(-1)).reshape(stored.shape) + 7
            checksum = int(values.sum()) % 65536 if rng.random() < 0.7 else 0
            initial = 7 if fmt == "8" else int(values[0, 0]) if rng.random() < 0.7 else 0
            gain, zero = str(rng.choice(list(GAINS))), int(rng.integers(-5, 5))
            steps, baseline, unit = GAINS[gain]
            signals.append((values[skew:].reshape(-1) - (zero if baseline is None else baseline)) / steps * unit)
            names.append(f"lead {len(names)}")
            counts.append(per_frame)
            layout = f"{fmt}x{per_frame}" if per_frame > 1 or rng.random() < 0.5 else fmt
            layout += f":{skew}" * (skew > 0) + f"+{offset}" * (offset > 0)
            signed = checksum - 65536 * (checksum >= 32768 and rng.random() < 0.5)
            lines.append(f"r{file}.dat {layout} {gain} 12 {zero} {initial} {signed} 0 {names[-1]}")
            frame.append(stored)
        flat = np.concatenate(frame, axis=1).reshape(-1)
        (path.parent / f"r{file}.dat").write_bytes(bytes(offset) + packed(fmt, flat))
    path.with_suffix(".hea").write_text("\n".join([f"r {len(names)} {rate} {frames}", *lines, "# comment"]) + "\n")
    return names, counts, signals


@pytest.mark.parametrize("seed", range(150))
def test_every_format_gain_skew_and_number_of_samples_per_frame(tmp_path, seed):
    names, counts, signals = write(tmp_path / "r", np.random.default_rng(seed))
    oracle = wfdb.rdrecord(str(tmp_path / "r"), smooth_frames=False)
    scale = {"mV": 1, "uV": 1e-3, "V": 1e3}
    skews = [skew or 0 for skew in oracle.skew]
    for i, (name, count, signal) in enumerate(zip(names, counts, signals, strict=True)):
        length = (oracle.sig_len - skews[i]) * count
        expected = oracle.e_p_signal[i][:length] * scale[oracle.units[i]]
        if np.ptp(expected) == 0 or np.isnan(expected).any():
            continue
        reading = read_record(tmp_path / "r", lead_names=[name], sampling_rate=oracle.fs * count)
        np.testing.assert_array_equal(reading.signal[:, 0], expected.astype(np.float32))
        np.testing.assert_array_equal(reading.signal[:, 0], signal.astype(np.float32))


@pytest.mark.parametrize("fmt", ["508", "516", "524"])
@pytest.mark.parametrize("count", [1, 3])
def test_compressed_formats(tmp_path, fmt, count):
    rng = np.random.default_rng(int(fmt))
    high = 1 << int(fmt) - 500 - 1
    signals = [rng.integers(1 - high, high, 200 * count) for _ in range(3)]
    fields = {
        "file_name": "r.dat", "fmt": fmt, "samps_per_frame": count, "adc_gain": 10.0, "baseline": 3, "units": "mV",
        "byte_offset": None, "adc_res": 16, "adc_zero": 0, "block_size": 0,
    }  # fmt: skip
    record = wfdb.Record(
        record_name="r",
        n_sig=3,
        fs=100,
        sig_len=200,
        sig_name=["a", "b", "c"],
        e_d_signal=signals,
        init_value=[int(one[0]) for one in signals],
        checksum=[int(one.sum()) % 65536 for one in signals],
        **{name: [value] * 3 for name, value in fields.items()},
    )
    record.wrheader(str(tmp_path))
    record.wr_dats(expanded=True, write_dir=str(tmp_path))
    oracle = wfdb.rdrecord(str(tmp_path / "r"), smooth_frames=False)
    reading = read_record(tmp_path / "r", lead_names=["c", "a"], sampling_rate=100 * count)
    expected = np.stack([oracle.e_p_signal[2], oracle.e_p_signal[0]], axis=1)
    np.testing.assert_array_equal(reading.signal, expected.astype(np.float32))
    written = (np.stack([signals[2], signals[0]], axis=1) - 3) / 10
    np.testing.assert_array_equal(reading.signal, written.astype(np.float32))
    header = (tmp_path / "r.hea").read_text()
    (tmp_path / "r.hea").write_text(header.replace("r 3 100 200", "r 3 100"))
    without = read_record(tmp_path / "r", lead_names=["c", "a"], sampling_rate=100 * count)
    np.testing.assert_array_equal(without.signal, reading.signal)
    (tmp_path / "r.hea").write_text(header)
    content = (tmp_path / "r.dat").read_bytes()
    (tmp_path / "r.dat").write_bytes(content[: len(content) // 2])
    with pytest.raises(RecordError, match="its files are truncated or damaged"):
        read_record(tmp_path / "r", lead_names=["a"], sampling_rate=100 * count)


def test_a_compressed_file_that_is_not_what_its_header_says(tmp_path):
    write_record(tmp_path / "r", np.random.default_rng(0).uniform(-1, 1, (90, 2)), ["a", "b"], 100, fmt=["516"] * 2)
    header, content = ((tmp_path / f"r{suffix}").read_bytes() for suffix in (".hea", ".dat"))
    for old, new, message in (
        (b"r 2 100 90", b"r 2 100 91", r"r\.dat has 90 samples, but its header says 91"),
        (
            b"r 2 100 90\n",
            b"r 3 100 90\nr.dat 516 9 8 0 0 0 0 c\n",
            r"wrong number of channels in r\.dat \(2, expected 3",
        ),
        (b"r.dat 516 ", b"r.dat 516x2 ", r"r\.dat has 45 samples, but its header says 90"),
    ):
        assert old in header
        (tmp_path / "r.hea").write_bytes(header.replace(old, new))
        with pytest.raises(RecordError, match=message):
            read_record(tmp_path / "r", lead_names=["a"], sampling_rate=100)
    (tmp_path / "r.hea").write_bytes(header)
    (tmp_path / "r.dat").write_bytes(content[:4] + b"\xff" + content[5:])
    with pytest.raises(RecordError, match=r"r\.dat cannot be read as 2 leads in format 516: [^<]*\)"):
        read_record(tmp_path / "r", lead_names=["a"], sampling_rate=100)
    (tmp_path / "r.dat").write_bytes(content[1:])
    with pytest.raises(RecordError, match=r"r\.dat is not a FLAC file, but its header says format 516"):
        read_record(tmp_path / "r", lead_names=["a"], sampling_rate=100)


@pytest.mark.parametrize("fmt", ["24", "61", "310"])
@pytest.mark.parametrize("first", ["r 1 100 50 2006", "r 1 100", "r 1 100./360(0) 50 12:30 1/2/06"])
def test_a_rare_format_beside_a_header_that_wfdb_does_not_read(tmp_path, fmt, first):
    values = np.random.default_rng(0).integers(-500, 500, 50)
    (tmp_path / "r.1.d\u00e4t").write_bytes(packed(fmt, values))
    (tmp_path / "r.hea").write_text(f"{first}\nr.1.d\u00e4t {fmt} 8(3)/\u00b5V 0 0 0 0 0 \u00e4 b\n")
    reading = read_record(tmp_path / "r", lead_names=["\u00e4 b"], sampling_rate=100, samples=50)
    np.testing.assert_array_equal(reading.signal[:, 0], ((values - 3) / 8 * 1e-3).astype(np.float32))


@pytest.mark.parametrize("fmt", ["24", "32", "61", "80", "160", "310", "311"])
def test_missing_samples_of_rare_formats(tmp_path, fmt):
    values = np.arange(60) % 50
    values[30] = -(1 << (31 if fmt == "32" else BITS[fmt] - 1))
    (tmp_path / "r.dat").write_bytes(packed(fmt, values))
    (tmp_path / "r.hea").write_text(f"r 1 100 60\nr.dat {fmt} 8 0 0 0 {int(values.sum()) % 65536} 0 I\n")
    with pytest.raises(RecordError, match=r"lead I has missing samples \(NaN\)"):
        read_record(tmp_path / "r", lead_names=["I"], sampling_rate=100)
    beginning = read_record(tmp_path / "r", lead_names=["I"], sampling_rate=100, samples=30)
    np.testing.assert_array_equal(beginning.signal[:, 0], np.arange(30, dtype=np.float32) / 8)


def write_segments(folder: Path, rng: np.random.Generator, variable: bool) -> list[tuple[str, int]]:
    """Segments of one to three leads, each with its own format, gains, units and order."""
    segments = [("layout", 0)] if variable else []
    if variable:
        lines = [f"~ 0 200/mV 12 0 0 0 0 {name}" for name in ("I", "II", "V1")]
        (folder / "layout.hea").write_text("\n".join(["layout 3 100 0", *lines]) + "\n")
    for number in range(rng.integers(2, 5)):
        n = int(rng.integers(1, 4)) if variable and number else 3
        leads = rng.permutation(["I", "II", "V1"])[:n].tolist()
        options = {
            "fmt": [str(rng.choice(["16", "32", "212"]))] * n,
            "units": ["mV"] * n if variable else rng.choice(["mV", "uV", "V"], n).tolist(),
            "adc_gain": rng.choice([100.0, 12.5, 1000.0], n).tolist(),
            "baseline": rng.integers(-50, 50, n).tolist(),
        }
        length = int(rng.integers(20, 90))
        write_record(folder / f"s{number}", rng.uniform(-1, 1, (length, n)), leads, 100, **options)
        segments.append((f"s{number}", length))
    return segments


def assemble(folder: Path, segments: list[tuple[str, int]]) -> int:
    total = sum(length for _, length in segments)
    lines = [f"{name} {length}" for name, length in segments]
    (folder / "m.hea").write_text("\n".join([f"m/{len(lines)} 3 100 {total}", *lines]) + "\n")
    return total


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_segments_of_different_gain_unit_and_order_are_joined_by_name(tmp_path, seed):
    segments = write_segments(tmp_path, np.random.default_rng(seed), variable=False)
    total = assemble(tmp_path, segments)
    scale = {"mV": 1, "uV": 1e-3, "V": 1e3}
    parts = []
    for name, _ in segments:
        one = wfdb.rdrecord(str(tmp_path / name))
        columns = [one.sig_name.index(lead) for lead in ("V1", "I")]
        parts.append(one.p_signal[:, columns] * [scale[one.units[i]] for i in columns])
    reading = read_record(tmp_path / "m", lead_names=["V1", "I"], sampling_rate=100)
    np.testing.assert_array_equal(reading.signal, np.concatenate(parts).astype(np.float32))
    for samples in range(1, total, 37):
        part = read_record(tmp_path / "m", lead_names=["V1", "I"], sampling_rate=100, samples=samples + 1).signal
        np.testing.assert_array_equal(part, reading.signal[: samples + 1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_variable_layout_is_read_as_wfdb_joins_it(tmp_path, seed):
    segments = write_segments(tmp_path, np.random.default_rng(seed), variable=True)
    assemble(tmp_path, segments)
    oracle = wfdb.rdrecord(str(tmp_path / "m"))
    there = []
    for i, name in enumerate(oracle.sig_name):
        if np.isnan(oracle.p_signal[:, i]).any():
            with pytest.raises(RecordError, match=rf"lead {name} has missing samples \(in segment \d\)"):
                read_record(tmp_path / "m", lead_names=[name], sampling_rate=100)
        else:
            there.append(name)
    if there:
        reading = read_record(tmp_path / "m", lead_names=there, sampling_rate=100)
        columns = [oracle.sig_name.index(name) for name in there]
        np.testing.assert_array_equal(reading.signal, oracle.p_signal[:, columns].astype(np.float32))
    first = segments[1][1]
    beginning = read_record(tmp_path / "m", lead_names=oracle.sig_name, sampling_rate=50, samples=first // 2)
    assert np.isfinite(beginning.signal).all()


def test_a_gap_between_segments(tmp_path):
    segments = write_segments(tmp_path, np.random.default_rng(1), variable=True)
    assemble(tmp_path, [*segments[:2], ("~", 40), *segments[2:]])
    first = segments[1][1]
    oracle = wfdb.rdrecord(str(tmp_path / "m"), sampto=first)
    reading = read_record(tmp_path / "m", lead_names=["I", "II", "V1"], sampling_rate=100, samples=first)
    np.testing.assert_array_equal(reading.signal, oracle.p_signal.astype(np.float32))
    for gap in (40, 10**15):
        assemble(tmp_path, [*segments[:2], ("~", gap), *segments[2:]])
        with pytest.raises(RecordError, match=r"lead I has missing samples \(in segment 2\)"):
            read_record(tmp_path / "m", lead_names=["I"], sampling_rate=100)
    for leads in (["I"], ["V1", "I"]):
        resampled = read_record(tmp_path / "m", lead_names=leads, sampling_rate=50, samples=first // 2)
        assert np.isfinite(resampled.signal).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], r"m\.hea names \d segments and describes \d"),
        (lambda lines: [lines[0], "s0 999", *lines[2:]], r"its segment s0 has \d+ samples, but its header says 999"),
        (lambda lines: [f"{lines[0]}7", *lines[1:]], r"its segments have \d+ samples together, but its header says"),
        (lambda lines: [lines[0], "m " + lines[1].split()[1], *lines[2:]], r"its segment m has segments itself"),
        (lambda lines: [lines[0], "../s0 5", *lines[2:]], r"names the segment \.\./s0, where a record beside it"),
        (
            lambda lines: [lines[0].replace(" 100 ", " 50 "), *lines[1:]],
            r"its segment s0 has 100 Hz, but .* says 50 Hz",
        ),
        (
            lambda lines: [re.sub(r"^(\S+) (\d+)", r"\1 \g<2>1", lines[0]), *lines[1:]],
            r"its segments have \d signals, but its header says \d1",
        ),
        (lambda lines: [lines[0], "gone 5", *lines[2:]], r"the header file gone\.hea is missing"),
    ],
)
def test_segments_that_do_not_fit(tmp_path, change, message):
    assemble(tmp_path, write_segments(tmp_path, np.random.default_rng(3), variable=False))
    lines = (tmp_path / "m.hea").read_text().splitlines()
    (tmp_path / "m.hea").write_text("\n".join(change(lines)) + "\n")
    with pytest.raises(RecordError, match=message):
        read_record(tmp_path / "m", lead_names=["I"], sampling_rate=100)


def test_segments_of_different_samples_per_frame(tmp_path):
    for name, count in (("s0", 1), ("s1", 2)):
        values = np.arange(20 * count, dtype="<i2")
        (tmp_path / f"{name}.dat").write_bytes(values.tobytes())
        (tmp_path / f"{name}.hea").write_text(f"{name} 1 100 20\n{name}.dat 16x{count} 200/mV 12 0 0 0 0 I\n")
    (tmp_path / "m.hea").write_text("m/2 1 100 40\ns0 20\ns1 20\n")
    with pytest.raises(RecordError, match="lead I has 1 samples per frame in one segment and 2 in another"):
        read_record(tmp_path / "m", lead_names=["I"], sampling_rate=100)


@pytest.mark.slow
def test_blocks_do_not_change_what_is_read(tmp_path, monkeypatch):
    """A long recording is read piece by piece."""
    from ecgexp.datasets.ecg import samples

    for seed in range(20):
        names, counts, _ = write(tmp_path / "r", np.random.default_rng(seed))
        for name, count in zip(names, counts, strict=True):
            readings = []
            for block in (1 << 20, 6, 60):
                monkeypatch.setattr(samples, "BLOCK", block)
                reading = read_record(tmp_path / "r", lead_names=[name], sampling_rate=100 * count)
                readings.append(reading.signal)
            np.testing.assert_array_equal(readings[0], readings[1])
            np.testing.assert_array_equal(readings[0], readings[2])

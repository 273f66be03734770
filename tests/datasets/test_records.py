from pathlib import Path

import numpy as np
import pytest
import wfdb
from folders import write_record
from scipy.signal import resample_poly

from ecgexp.datasets import Reading, read_record
from ecgexp.datasets.records import RecordError
from ecgexp.errors import UserError

RNG = np.random.default_rng(1)


def read(path: Path, leads: tuple[str, ...] = ("I", "II"), rate: float = 100, samples: int = 1000, exact=False):
    return read_record(path, lead_names=leads, sampling_rate=rate, samples=samples, exact=exact)


def test_a_real_record_in_millivolts(real_ptbxl):
    path = real_ptbxl / "records100/00000/00001_lr"
    leads = [line.split()[-1] for line in path.with_suffix(".hea").read_text().splitlines()[1:13]]
    reading = read(path, tuple(leads), exact=True)
    raw = np.fromfile(path.with_suffix(".dat"), "<i2").reshape(1000, 12)  # 1000 per mV, by the header
    assert reading.signal.dtype == np.float32
    np.testing.assert_array_equal(reading.signal, (raw / 1000).astype(np.float32))
    assert reading.notes == ()


def test_format_212(mitdb):
    raw = np.frombuffer((mitdb / "100.dat").read_bytes()[: 3 * 3600], np.uint8).reshape(-1, 3).astype(int)
    values = np.stack([raw[:, 0] | (raw[:, 1] & 15) << 8, raw[:, 2] | (raw[:, 1] >> 4) << 8], axis=1)
    values = np.where(values > 2047, values - 4096, values)  # two 12-bit samples in three bytes, MLII first
    reading = read(mitdb / "100", ("V5", "MLII"), rate=360, samples=3600)
    np.testing.assert_allclose(reading.signal, (values[:, ::-1] - 1024) / 200, atol=1e-6)
    assert reading.notes == ("reordered leads to V5, MLII", "cropped from 1805.56 s to its first 10 s")


def test_what_wfdb_itself_reads_and_writes_stays_the_same(tmp_path):
    """Headers are parsed with wfdb's own tables replaced for the moment by faster ones."""
    signal = write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    header, ours = (tmp_path / "r.hea").read_text(), read(tmp_path / "r", exact=True).signal
    with pytest.raises(RecordError):
        read(tmp_path / "missing")
    record = wfdb.rdrecord(str(tmp_path / "r"))
    np.testing.assert_array_equal(ours, record.p_signal.astype(np.float32))
    assert (record.units, record.adc_gain, record.fmt) == (["mV"] * 2, [1000.0] * 2, ["16"] * 2)
    write_record(tmp_path / "r", signal, ["I", "II"], 100)
    assert (tmp_path / "r.hea").read_text() == header


def test_leads_by_name_whatever_case_and_order(tmp_path):
    signal = write_record(tmp_path / "r", RNG.normal(size=(1000, 3)), ["v1", "aVR", "I"], 100)
    reading = read(tmp_path / "r", ("I", "AVR", "V1"), exact=True)
    np.testing.assert_allclose(reading.signal, signal[:, ::-1], atol=1e-6)
    assert reading.notes == ("reordered leads to I, AVR, V1",)


@pytest.mark.parametrize(("unit", "scale"), [("mV", 1), ("uV", 1e-3), ("V", 1e3)])
def test_units_become_millivolts(tmp_path, unit, scale):
    signal = write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100, units=[unit] * 2)
    np.testing.assert_allclose(read(tmp_path / "r", exact=True).signal, signal * scale, rtol=1e-6)


def test_other_units_are_refused(tmp_path):
    write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100, units=["mV", "mmHg"])
    with pytest.raises(RecordError, match="lead II is in 'mmHg', not in mV, uV or V"):
        read(tmp_path / "r")


@pytest.mark.parametrize("rate", [360, 500, 250, 62.5])
def test_resampling_keeps_a_sine_and_its_offset(tmp_path, rate):
    time = np.arange(int(10 * rate)) / rate
    sine = 2 + np.sin(2 * np.pi * 5 * time)
    write_record(tmp_path / "r", np.stack([sine, -sine], axis=1), ["I", "II"], rate)
    reading = read(tmp_path / "r")
    expected = 2 + np.sin(2 * np.pi * 5 * np.arange(1000) / 100)
    assert reading.signal.shape == (1000, 2)
    np.testing.assert_allclose(reading.signal[50:-50, 0], expected[50:-50], atol=0.01)
    np.testing.assert_allclose(reading.signal[:, 1], -reading.signal[:, 0], atol=1e-6)
    np.testing.assert_allclose(reading.signal[:, 0], expected, atol=0.5)  # no ringing down to zero at the ends
    assert reading.notes == (f"resampled from {rate:g} Hz to 100 Hz",)


def test_resampling_filters_as_scipy_does(tmp_path):
    signal = write_record(tmp_path / "r", RNG.normal(size=(5000, 2)), ["I", "II"], 500)
    expected = resample_poly(signal, 1, 5, axis=0)
    np.testing.assert_allclose(read(tmp_path / "r").signal[10:-10], expected[10:-10], atol=1e-5)


def test_crop_to_the_beginning(tmp_path):
    signal = write_record(tmp_path / "r", RNG.normal(size=(1234, 2)), ["I", "II"], 100)
    reading = read(tmp_path / "r")
    np.testing.assert_allclose(reading.signal, signal[:1000], atol=1e-6)
    assert reading.notes == ("cropped from 12.34 s to its first 10 s",)


def test_pad_with_zeros_at_the_end(tmp_path):
    signal = write_record(tmp_path / "r", RNG.normal(size=(765, 2)), ["I", "II"], 100)
    reading = read(tmp_path / "r")
    np.testing.assert_allclose(reading.signal[:765], signal, atol=1e-6)
    assert not reading.signal[765:].any()
    assert reading.notes == ("padded with 2.35 s of zeros at its end",)


def test_more_leads_are_omitted_and_said(tmp_path):
    signal = write_record(tmp_path / "r", RNG.normal(size=(1000, 3)), ["I", "II", "resp"], 100)
    reading = read(tmp_path / "r")
    np.testing.assert_allclose(reading.signal, signal[:, :2], atol=1e-6)
    assert reading.notes == ("omitted leads resp",)


@pytest.mark.parametrize(
    ("samples", "leads", "rate", "message"),
    [
        (1000, ["I", "II"], 500, "its sampling rate is 500 Hz where 100 Hz is expected"),
        (900, ["I", "II"], 100, "it has 900 samples where 1000 are expected"),
        (1000, ["I", "II", "III"], 100, "it has 3 leads where 2 are expected .also III."),
        (1000, ["I"], 100, "it has no lead II .its leads are I."),
    ],
)
def test_exact_refuses_to_adapt(tmp_path, samples, leads, rate, message):
    write_record(tmp_path / "r", RNG.normal(size=(samples, len(leads))), leads, rate)
    with pytest.raises(RecordError, match=f"record {tmp_path / 'r'}: {message}"):
        read(tmp_path / "r", exact=True)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("fmt", ["16", "212"])
@pytest.mark.parametrize("left", [0, 1, 1000, -3, -1])
def test_a_truncated_signal_file(tmp_path, exact, fmt, left):
    write_record(tmp_path / "r", RNG.uniform(-1, 1, (1000, 2)), ["I", "II"], 100, fmt=[fmt] * 2)
    data = tmp_path / "r.dat"
    data.write_bytes(data.read_bytes()[:left])
    with pytest.raises(RecordError, match="its files are truncated or damaged"):
        read(tmp_path / "r", exact=exact)


@pytest.mark.parametrize("header", ["", "nonsense\n", "r 2 100 1000\n", "r 2 100 1000\nr.dat 16 200/mV\n"])
def test_a_damaged_header(tmp_path, header):
    write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    (tmp_path / "r.hea").write_text(header)
    with pytest.raises(RecordError, match="its files are truncated or damaged"):
        read(tmp_path / "r")


@pytest.mark.parametrize(("suffix", "message"), [("hea", "header file r.hea"), ("dat", "signal file r.dat")])
def test_a_missing_file(tmp_path, suffix, message):
    write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    (tmp_path / f"r.{suffix}").unlink()
    with pytest.raises(UserError, match=f"the {message} is missing"):
        read(tmp_path / "r")


def test_a_missing_sample_and_a_constant_lead(tmp_path):
    signal = RNG.normal(size=(1000, 2))
    signal[500, 1] = -32.768  # format 16's mark of a missing sample
    write_record(tmp_path / "r", signal, ["I", "II"], 100)
    with pytest.raises(RecordError, match="lead II has missing samples"):
        read(tmp_path / "r")
    signal[:, 1] = 0.25
    write_record(tmp_path / "r", signal, ["I", "II"], 100)
    with pytest.raises(RecordError, match=r"lead II is constant at 0\.25 mV"):
        read(tmp_path / "r")


def test_a_lead_twice(tmp_path):
    write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    header = tmp_path / "r.hea"
    header.write_text(header.read_text().replace(" II\n", " i\n"))
    with pytest.raises(RecordError, match="lead I occurs twice"):
        read(tmp_path / "r", ("I",))


def test_a_reading_says_what_was_done_in_order(tmp_path):
    write_record(tmp_path / "r", RNG.normal(size=(500, 3)), ["III", "II", "I"], 250, units=["uV"] * 3)
    reading = read(tmp_path / "r")
    assert isinstance(reading, Reading)
    assert [note.split()[0] for note in reading.notes] == [
        "omitted",
        "reordered",
        "converted",
        "resampled",
        "padded",
    ]

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wfdb
from folders import write_record
from scipy.io import savemat
from scipy.signal import resample_poly

from ecgexp.datasets import Reading, read_record
from ecgexp.datasets.ecg.records import RecordError, read_extent, read_leads
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


@pytest.mark.slow
@pytest.mark.parametrize(("fmt", "needed"), [("16", False), ("212", False), ("24", True)])
def test_wfdb_which_takes_a_second_to_import_is_imported_for_rare_formats_alone(tmp_path, fmt, needed):
    write_record(tmp_path / "r", RNG.uniform(-1, 1, (50, 1)), ["I"], 100, fmt=[fmt])
    code = (
        "import sys; from ecgexp.datasets import read_record; "
        "read_record(sys.argv[1], lead_names=['I'], sampling_rate=100); sys.exit('wfdb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], check=False).returncode == needed


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


def test_further_leads_are_omitted_and_reported(tmp_path):
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
    with pytest.raises(RecordError, match=f"Record {tmp_path / 'r'} cannot be used: {message}"):
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


def test_a_record_may_be_named_by_any_of_its_files(tmp_path):
    write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    expected = read(tmp_path / "r").signal
    for suffix in (".hea", ".dat", ".MAT"):
        np.testing.assert_array_equal(read(tmp_path / f"r{suffix}").signal, expected)
        assert read_leads(tmp_path / f"r{suffix}") == ("I", "II")
        assert read_extent(tmp_path / f"r{suffix}") == (1000, 100)
    write_record(tmp_path / "s", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    (tmp_path / "s.hea").rename(tmp_path / "r.hea.hea")  # a record of its own
    assert not np.array_equal(read(tmp_path / "r.hea").signal, expected)


@pytest.mark.parametrize(("name", "shown"), [("folder", "folder/"), (".", ""), ("..", "../"), ("folder/", "folder/")])
def test_a_folder_in_place_of_a_record_is_named(tmp_path, monkeypatch, name, shown):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    sentence = rf"it is a folder: name the records in it, such as {re.escape(shown)}\*\.hea"
    with pytest.raises(RecordError, match=sentence):
        read(Path(name))


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


def test_the_notes_of_a_reading_are_in_order(tmp_path):
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


# --- what a header says, and what the files have


def edit(path: Path, old: str | bytes, new: str | bytes) -> None:
    """Replace a part of each line of a header."""
    header = path.with_suffix(".hea")
    old, new = (text.encode() if isinstance(text, str) else text for text in (old, new))
    assert old in header.read_bytes()
    header.write_bytes(header.read_bytes().replace(old, new))


def raw_record(path: Path, header: str, values: np.ndarray, kind: str = "<i2") -> None:
    path.with_suffix(".dat").write_bytes(values.astype(kind).tobytes())
    path.with_suffix(".hea").write_text(header)


@pytest.mark.parametrize(
    "unit", ["\u00b5V".encode(), "\u03bcV".encode(), b"\xb5V", "\u00b5v".encode()], ids=["utf8", "greek", "latin1", "v"]
)
def test_microvolts_written_with_a_greek_letter(tmp_path, unit):
    signal = write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100, units=["uV"] * 2)
    edit(tmp_path / "r", b"/uV", b"/" + unit)
    (tmp_path / "r.hea").write_bytes((tmp_path / "r.hea").read_bytes() + b"# M\xfcller, by \xe4\x85, in Latin-1\n")
    reading = read(tmp_path / "r", exact=True)
    np.testing.assert_allclose(reading.signal, signal / 1000, rtol=1e-6)
    assert reading.notes == ("converted to mV",)


@pytest.mark.parametrize("unit", ["?V", "\ufffdV", "\u00c2\u00b5V", "V\u00b5", "NU", "adu"])
def test_a_unit_that_was_lost_on_the_way_is_refused(tmp_path, unit):
    write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100, units=["uV"] * 2)
    edit(tmp_path / "r", "/uV", f"/{unit}")
    with pytest.raises(RecordError, match=r"lead I is in .*, not in mV, uV or V"):
        read(tmp_path / "r")


@pytest.mark.parametrize("gain", ["0", "0/mV", "0.0(12)/mV", ""])
def test_a_lead_without_a_gain_is_refused_or_assumed_and_reported(tmp_path, gain):
    signal = write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    if gain:
        edit(tmp_path / "r", "1000.0(0)/mV", gain)
    else:
        (tmp_path / "r.hea").write_text("r 2 100 1000\nr.dat 16\nr.dat 16 II\n")
    leads = ("II",)
    with pytest.raises(RecordError, match=r"its header gives no gain for lead II, .*uncalibrated=assume"):
        read(tmp_path / "r", leads)
    reading = read_record(tmp_path / "r", lead_names=leads, sampling_rate=100, uncalibrated="assume")
    baseline = 12 if "12" in gain else 0
    np.testing.assert_allclose(reading.signal[:, 0], (np.round(signal[:, 1] * 1000) - baseline) / 200, atol=1e-6)
    assert reading.notes[-1] == "uncalibrated lead II: 200 steps per unit are assumed"


def test_several_samples_per_frame_have_the_full_rate(mitdb, tmp_path):
    """The same recording as frames of one, four and 360 samples of each lead."""
    steps = wfdb.rdrecord(str(mitdb / "100"), sampto=3600, physical=False).d_signal
    reference = read(mitdb / "100", ("MLII", "V5"), samples=900).signal
    for count in (1, 4, 360):
        frames = steps.reshape(-1, count, 2).transpose(0, 2, 1)
        lines = [f"r.dat 16x{count} 200(1024)/mV 11 1024 0 0 0 {name}" for name in ("MLII", "V5")]
        raw_record(tmp_path / "r", "\n".join([f"r 2 {360 / count:g} {len(frames)}", *lines]) + "\n", frames)
        signal = read(tmp_path / "r", ("MLII", "V5"), samples=900).signal
        np.testing.assert_array_equal(signal[20:], reference[20:])  # the line before the first sample differs
        whole = read(tmp_path / "r", ("MLII", "V5"), rate=360, samples=3600, exact=True).signal
        np.testing.assert_array_equal(whole, ((steps - 1024) / 200).astype(np.float32))


def test_leads_of_different_rates_are_resampled_each(tmp_path):
    def wave(rate: int, hertz: int) -> np.ndarray:
        return np.sin(2 * np.pi * hertz * np.arange(10 * rate) / rate)

    fast, slow = wave(500, 3), wave(50, 2)
    frames = np.concatenate([fast.reshape(-1, 10), slow.reshape(-1, 1)], axis=1)
    raw_record(
        tmp_path / "r", "r 2 50 500\nr.dat 16x10 1000 12 0 0 0 0 I\nr.dat 16 1000 12 0 0 0 0 II\n", frames * 1000
    )
    reading = read(tmp_path / "r")
    expected = np.stack([wave(100, 3), wave(100, 2)], axis=1)
    np.testing.assert_allclose(reading.signal[20:-20], expected[20:-20], atol=0.01)
    assert reading.notes == ("resampled from 50 and 500 Hz to 100 Hz",)


@pytest.mark.parametrize("rate", [360, 500, 250, 62.5])
def test_a_record_is_resampled_before_it_is_cropped(tmp_path, rate):
    """The last samples are those of the record, whatever follows them there."""
    write_record(tmp_path / "r", np.cumsum(RNG.normal(0, 0.05, (int(40 * rate), 2)), axis=0), ["I", "II"], rate)
    whole = read(tmp_path / "r", samples=None).signal
    for samples in (30, 1000, 1001, 3990):
        part = read(tmp_path / "r", samples=samples).signal
        np.testing.assert_allclose(part[20:], whole[20:samples], atol=1e-5)


def test_a_missing_sample_behind_the_wanted_ones_does_no_harm(tmp_path):
    signal = RNG.normal(size=(4000, 2))
    signal[3605] = -32.768
    write_record(tmp_path / "r", signal, ["I", "II"], 360)
    assert np.isfinite(read(tmp_path / "r").signal).all()
    signal[3595] = -32.768
    write_record(tmp_path / "r", signal, ["I", "II"], 360)
    with pytest.raises(RecordError, match="lead I has missing samples"):
        read(tmp_path / "r")


def damaged(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)


@pytest.mark.parametrize("fmt", ["16", "212", "24", "32", "80"])
@pytest.mark.parametrize("place", [0, 700, -1])
@pytest.mark.parametrize("samples", [1000, 10])
def test_a_changed_byte_is_found_wherever_it_is(tmp_path, fmt, place, samples):
    if place == -1:  # the checksum has 16 bits, and the higher ones of formats 24 and 32 are not in it
        place = {"24": -3, "32": -4}.get(fmt, place)
    write_record(tmp_path / "r", RNG.uniform(-0.1, 0.1, (1000, 2)), ["I", "II"], 100, fmt=[fmt] * 2)
    damaged(tmp_path / "r.dat", place)
    message = r"its files are truncated or damaged \(lead II? in r\.dat (has the checksum|begins with)"
    with pytest.raises(RecordError, match=message):
        read(tmp_path / "r", samples=samples)


def test_zeros_in_the_place_of_initial_value_and_checksum_say_nothing(tmp_path):
    signal = write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    first, *lines = (tmp_path / "r.hea").read_text().splitlines()
    words = [line.split() for line in lines]
    for initial, checksum in (("0", "0"), (words[0][5], "0"), ("0", words[0][6])):
        changed = [" ".join([*words[0][:5], initial, checksum, *words[0][7:]]), lines[1]]
        (tmp_path / "r.hea").write_text("\n".join([first, *changed]) + "\n")
        np.testing.assert_allclose(read(tmp_path / "r").signal, signal, atol=1e-6)
    for initial, checksum in (("5", "0"), ("0", "5"), (words[0][5], "5")):
        changed = [" ".join([*words[0][:5], initial, checksum, *words[0][7:]]), lines[1]]
        (tmp_path / "r.hea").write_text("\n".join([first, *changed]) + "\n")
        with pytest.raises(RecordError, match=r"lead I in r\.dat .*, but its header says 5"):
            read(tmp_path / "r")


@pytest.mark.slow
def test_real_records_are_what_their_headers_say(real_ptbxl, mitdb, tmp_path):
    """And one changed byte in one of them is found."""
    leads = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
    for header in sorted(real_ptbxl.rglob("records100/*/*.hea"))[::30]:
        raw = np.fromfile(header.with_suffix(".dat"), "<i2").reshape(1000, 12)
        signal = read(header.with_suffix(""), leads, exact=True).signal
        np.testing.assert_array_equal(signal, (raw / 1000).astype(np.float32))
    for header in sorted(mitdb.glob("*.hea"))[::8]:
        expected = wfdb.rdrecord(str(header.with_suffix("")))
        signal = read(header.with_suffix(""), tuple(expected.sig_name), rate=360, samples=650_000, exact=True).signal
        np.testing.assert_array_equal(signal, expected.p_signal.astype(np.float32))
    for suffix in (".hea", ".dat"):
        (tmp_path / f"100{suffix}").write_bytes((mitdb / f"100{suffix}").read_bytes())
    damaged(tmp_path / "100.dat", 900_000)
    with pytest.raises(RecordError, match=r"lead \w+ in 100\.dat has the checksum"):
        read(tmp_path / "100", ("MLII", "V5"), rate=360, samples=3600)


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<i4"])
def test_a_signal_file_of_another_kind_than_its_header_says(tmp_path, kind):
    header = "r 2 100 1000\nr.dat 16 1000/mV 16 0 0 0 0 I\nr.dat 16 1000/mV 16 0 0 0 0 II\n"
    raw_record(tmp_path / "r", header, RNG.normal(size=(1000, 2)) * 1000, kind)
    with pytest.raises(RecordError, match=r"r\.dat has \d000 samples, but its header says 1000"):
        read(tmp_path / "r")


def mat_header(kind: str = "16+24") -> str:
    return f"r 2 100 1000\nr.mat {kind} 1000/mV 16 0 0 0 0 I\nr.mat {kind} 1000/mV 16 0 0 0 0 II\n"


def test_a_mat_file_of_version_4(tmp_path):
    signal = np.round(RNG.normal(size=(1000, 2)) * 1000).astype(np.int16)
    savemat(tmp_path / "r.mat", {"val": signal.T}, format="4")
    (tmp_path / "r.hea").write_text(mat_header())
    np.testing.assert_array_equal(read(tmp_path / "r").signal, (signal / 1000).astype(np.float32))


@pytest.mark.parametrize(
    ("values", "format", "kind", "message"),
    [
        (np.int16, "5", "16+24", r"r\.mat is a MAT file of version 5\.0, where only those of version 4 .*save -v4"),
        (np.float64, "4", "16+24", r"r\.mat is a MAT file of 2 x 1000 doubles .*header says 2 x 1000 in format 16"),
        (np.int32, "4", "16+24", r"r\.mat is a MAT file of 2 x 1000 int32 .*in format 16"),
        (np.int16, "4", "16", r"of 2 x 1000 int16 from byte 24 on, but its header says .* from byte 0 on"),
        (
            lambda array: array.astype(np.int16).T,
            "4",
            "16+24",
            r"of 1000 x 2 int16 .*header says 2 x 1000 in format 16",
        ),
    ],
)
def test_a_mat_file_that_is_not_what_its_header_says(tmp_path, values, format, kind, message):
    array = RNG.normal(size=(2, 1000)) * 1000
    array = array.astype(values) if isinstance(values, type) else values(array)
    savemat(tmp_path / "r.mat", {"val": array}, format=format)
    (tmp_path / "r.hea").write_text(mat_header(kind))
    with pytest.raises(RecordError, match=message):
        read(tmp_path / "r")


@pytest.mark.parametrize(
    "line",
    [
        "r 2 100",
        "r 2 100 0",
        "r 2 100 1000 2006",
        "r 2 100 1000 12:30:00 2006",
        "r 2 100 0 12:30:00 01/02/2006",
        "r 2 100 12:30:00 2006",
        "r 2 100 05-May-2020 09:49:17",
        "r 2 100 1000 05-May-2020 09:49:17",
        "r 2 1e2 1000",
        "r 2 100./360(0) 1000 12:30 1/2/06",
        "  r-1.a\t2  100   1000  ",
    ],
)
def test_what_is_odd_or_missing_in_the_first_line_and_can_be_read_all_the_same(tmp_path, line):
    signal = write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    edit(tmp_path / "r", "r 2 100 1000", line)
    edit(tmp_path / "r", "\n", "\r\n")
    reading = read(tmp_path / "r", exact=True)
    np.testing.assert_allclose(reading.signal, signal, atol=1e-6)
    assert reading.notes == ()


def test_a_header_without_a_sampling_rate_means_250_hz(tmp_path):
    signal = write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 250)
    edit(tmp_path / "r", "r 2 250 1000", "r 2")
    reading = read(tmp_path / "r", rate=250, exact=True)
    np.testing.assert_allclose(reading.signal, signal, atol=1e-6)
    assert reading.notes == ("assumed 250 Hz, since its header gives no sampling rate",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("r 2 0 1000", r"r\.hea gives a sampling rate of '0', where a number above 0"),
        ("r 2 0", r"gives a sampling rate of '0'"),
        ("r 2 -100 1000", r"gives a sampling rate of '-100'"),
        ("r 2 nan 1000", r"gives a sampling rate of 'nan'"),
        ("r 2 1e999 1000", r"gives a sampling rate of '1e999'"),
        ("r 2 1e9 1000", r"its sampling rate of 1e\+09 Hz is too far from 100 Hz"),
        ("r 2 0.001 1000", r"its sampling rate of 0\.001 Hz is too far from 100 Hz"),
        ("r 2 100 many", r"gives a length of 'many', where a whole number"),
        ("r 2 100 1000.5", r"gives a length of '1000\.5'"),
        ("r 2 100 " + "9" * 5000, r"gives a length of '9999"),
        ("r 3 100 1000", r"r\.hea names 3 signals and describes 2"),
        ("r 0 100 1000", r"r\.hea names 0 signals and describes 2"),
        ("r 2 100 1001", r"r\.dat has 1000 samples, but its header says 1001"),
        ("r two 100 1000", r"r\.hea begins with 'r two 100 1000', not with a record line"),
    ],
)
def test_what_is_wrong_in_the_first_line_is_named(tmp_path, line, message):
    write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    edit(tmp_path / "r", "r 2 100 1000", line)
    with pytest.raises(RecordError, match=message):
        read(tmp_path / "r")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("r.dat 16 ", "../r.dat 16 ", r"its header names the signal file \.\./r\.dat, where a file beside it"),
        ("r.dat 16 ", "r\0.dat 16 ", r"the signal file 'r\\x00\.dat' cannot be read .embedded null byte"),
        ("r.dat 16 ", ". 16 ", r"the signal file .* cannot be read .* Is a directory"),
        ("r.dat 16 ", "r.dat 17 ", r"r\.dat is in format 17, and only the formats 8, 16,"),
        ("r.dat 16 ", "r.dat 16x999 ", r"r\.dat has 1 samples, but its header says 1000"),
        ("r.dat 16 ", "r.dat 16x999999999999 ", r"its sampling rate of 1e\+14 Hz is too far from 100 Hz"),
        ("r.dat 16 ", "r.dat 16:5000 ", r"its header gives a skew of 5000, but it has only 1000 samples"),
        ("r.dat 16 ", "r.dat sixteen ", r"r\.hea has the line 'r\.dat sixteen .*, which is not a signal"),
        ("r.dat 16 ", "~ 0 ", r"its header names no signal file for lead I"),
        (
            "1000.0(0)",
            "1e300(0)",
            r"lead I has a gain of 1e\+300 per mV, which makes any signal vanish: the gain",
        ),
        ("1000.0(0)", "-1e999(0)", r"lead I has a gain of -inf per mV, which makes any signal vanish"),
        ("1000.0(0)", "1e-300(0)", r"its values are too large: the gain in its header must be wrong"),
    ],
)
def test_what_is_wrong_in_the_line_of_a_lead_is_named(tmp_path, old, new, message):
    write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    edit(tmp_path / "r", old, new)
    with pytest.raises(RecordError, match=message):
        read(tmp_path / "r")


@pytest.mark.parametrize("name", ["s", "s\0", ".", "..", "x" * 300])
def test_a_segment_of_an_odd_name(tmp_path, name):
    (tmp_path / "r.hea").write_text(f"r/1 1 100 5\n{name} 5\n")
    with pytest.raises(
        RecordError, match=r"the header file .* (is missing|cannot be read)|names the segment \.\.?, where"
    ):
        read(tmp_path / "r")


def test_leads_are_aligned_by_their_skew(tmp_path):
    signal = np.round(RNG.normal(size=(1000, 2)) * 1000)
    late = np.stack([signal[:, 0], np.concatenate([[7] * 30, signal[:-30, 1]])], axis=1)
    raw_record(tmp_path / "r", "r 2 100 1000\nr.dat 16 1000 12 0 0 0 0 I\nr.dat 16:30 1000 12 0 0 0 0 II\n", late)
    reading = read(tmp_path / "r", samples=970)
    np.testing.assert_allclose(reading.signal, signal[:970] / 1000, atol=1e-6)
    assert reading.notes == ("aligned leads by the skew in its header, which leaves out its last 0.3 s",)


def test_signal_files_that_differ_in_length_where_the_header_has_none(tmp_path):
    (tmp_path / "a.dat").write_bytes(bytes(2000))
    (tmp_path / "b.dat").write_bytes(bytes(1800))
    (tmp_path / "r.hea").write_text("r 2 100\na.dat 16 1000 12 0 0 0 0 I\nb.dat 16 1000 12 0 0 0 0 II\n")
    with pytest.raises(
        RecordError, match=r"neither its header nor its signal files give its length \(samples: a\.dat 1000, b\.dat 900"
    ):
        read(tmp_path / "r")


@pytest.mark.parametrize("name", ["r.edf", "r", "R.EDF", "r.bdf"])
def test_an_edf_file_is_refused_with_the_formats_that_can_be_read(tmp_path, name):
    file = tmp_path / (name if "." in name else f"{name}.edf")
    file.write_bytes(b"0       ")
    with pytest.raises(
        RecordError, match=rf"{file.name} is an? .DF file, and only WFDB records are read .a \.hea file"
    ):
        read(tmp_path / name)


def test_a_file_whose_name_differs_in_case_alone(tmp_path):
    write_record(tmp_path / "r", RNG.normal(size=(1000, 2)), ["I", "II"], 100)
    (tmp_path / "r.dat").rename(tmp_path / "r.DAT")
    with pytest.raises(RecordError, match=r"the signal file r\.dat is missing \(r\.DAT is there: rename it\)"):
        read(tmp_path / "r")
    (tmp_path / "r.hea").rename(tmp_path / "R.HEA")
    with pytest.raises(RecordError, match=r"the header file r\.hea is missing \(R\.HEA is there: rename it\)"):
        read(tmp_path / "r")


def test_odd_bytes_give_a_sentence_or_a_record(tmp_path):
    """Damaged headers and signal files, at random."""
    rng = np.random.default_rng(0)
    write_record(tmp_path / "r", rng.normal(size=(50, 2)), ["I", "II"], 100)
    files = {suffix: (tmp_path / f"r{suffix}").read_bytes() for suffix in (".hea", ".dat")}
    refused = 0
    for _ in range(500):
        for suffix, content in files.items():
            changed = bytearray(content)
            for _ in range(rng.integers(0, 4)):
                changed[rng.integers(len(changed))] = rng.integers(256)
            (tmp_path / f"r{suffix}").write_bytes(changed[: rng.integers(len(changed) // 2, 2 * len(changed))])
        try:
            reading = read(tmp_path / "r", samples=50)
        except RecordError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert reading.signal.shape == (50, 2) and np.isfinite(reading.signal).all()
    assert refused > 300

import ast
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from scipy.signal import find_peaks
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ecgexp.datasets.ecg import heart, synthetic
from ecgexp.datasets.ecg.statements import SUPERCLASS_OF
from ecgexp.datasets.ecg.synthetic import Synthetic, generate, populate
from ecgexp.errors import UserError

REAL = Path(__file__).resolve().parents[2] / "../shared/data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real PTB-XL records are not here")

LEADS = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
SUPERCLASSES = ["NORM", "STTC", "CD", "MI", "HYP"]
RATE = 500


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def superclasses(codes):
    return {SUPERCLASS_OF[code] for code in codes if code in SUPERCLASS_OF}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "ptbxl"
    generate(folder, records=800)
    return folder


@pytest.fixture(scope="module")
def table(folder):
    table = pd.read_csv(folder / "ptbxl_database.csv", index_col="ecg_id")
    table["codes"] = table.scp_codes.map(ast.literal_eval)
    return table


@pytest.fixture(scope="module")
def signals(folder, table):
    """In mV, (800, 1000, 12); that wfdb reads the same is tested once, below."""
    return read(folder, table.filename_lr)


def read(folder, names):
    return np.stack([np.fromfile(folder / f"{name}.dat", "<i2").reshape(1000, 12) for name in names]) / 1000


class TestFolder:
    def test_a_record_is_what_wfdb_would_have_written(self, folder, table, signals, tmp_path):
        name = folder / table.filename_lr[18]
        np.testing.assert_array_equal(wfdb.rdrecord(str(name)).p_signal, signals[17])
        read = wfdb.rdrecord(str(name), physical=False)
        assert read.sig_name == LEADS
        assert (read.fs, read.sig_len, read.n_sig) == (100, 1000, 12)
        assert read.fmt == ["16"] * 12 and read.adc_gain == [1000.0] * 12 and read.units == ["mV"] * 12
        assert read.checksum == (read.d_signal.sum(axis=0) % 65536).tolist()
        assert read.init_value == read.d_signal[0].tolist()
        wfdb.wrsamp(
            name.name,
            fs=100,
            units=["mV"] * 12,
            sig_name=LEADS,
            d_signal=read.d_signal,
            fmt=["16"] * 12,
            adc_gain=[1000.0] * 12,
            baseline=[0] * 12,
            write_dir=str(tmp_path),
        )
        assert (tmp_path / f"{name.name}.dat").read_bytes() == name.with_name(name.name + ".dat").read_bytes()

    @needs_real
    def test_tables_have_the_columns_and_the_statements_of_the_real_ones(self, folder):
        for name in ("ptbxl_database.csv", "scp_statements.csv"):
            assert list(pd.read_csv(folder / name)) == list(pd.read_csv(REAL / "ptbxl" / name))
        meaning = ["diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"]
        ours, real = (
            pd.read_csv(root / "scp_statements.csv", index_col=0)[meaning].sort_index()
            for root in (folder, REAL / "ptbxl")
        )
        pd.testing.assert_frame_equal(ours, real)

    def test_every_record_has_its_files_and_known_statements(self, folder, table):
        statements = set(pd.read_csv(folder / "scp_statements.csv", index_col=0).index)
        assert len(table) == 800 and table.index.is_unique
        assert set().union(*table.codes) <= statements
        assert all((folder / f"{name}.dat").stat().st_size == 1000 * 12 * 2 for name in table.filename_lr)

    def test_likelihoods_say_how_sure_a_diagnosis_is(self, table):
        values = {code: set() for codes in table.codes for code in codes}
        for codes in table.codes:
            for code, likelihood in codes.items():
                values[code].add(likelihood)
        assert values["SR"] == {0.0}
        assert values["IMI"] >= {15.0, 50.0, 100.0}
        sure = [superclasses(c for c, v in codes.items() if v >= 50) for codes in table.codes]
        assert 0 < sum(s != superclasses(c) for s, c in zip(sure, table.codes, strict=True)) < 150

    def test_patients_stay_in_one_fold_and_folds_have_all_superclasses(self, table):
        assert (table.groupby("patient_id").strat_fold.nunique() == 1).all()
        assert table.patient_id.nunique() < 800
        for _, rows in table.groupby("strat_fold"):
            assert 55 <= len(rows) <= 105
            counts = pd.Series([c for codes in rows.codes for c in superclasses(codes)]).value_counts()
            assert (counts[SUPERCLASSES] >= 5).all()

    def test_it_says_that_it_is_synthetic(self, folder):
        text = (folder / "README.txt").read_text()
        assert "SYNTHETIC" in text and "nothing clinical" in text
        assert "synthetic" in (folder / "LICENSE.txt").read_text()

    @pytest.mark.slow
    @needs_real
    def test_superclasses_occur_together_as_in_the_real_labels(self):
        real = pd.read_csv(REAL / "ptbxl_labels_21799.csv")[[f"super_{name}" for name in SUPERCLASSES]]
        real.columns = SUPERCLASSES
        together = pd.Series("", index=real.index)
        for name in SUPERCLASSES:
            together += np.where(real[name] == 1, f"+{name}", "")
        assert together.str.removeprefix("+").value_counts().to_dict() == synthetic._COMBINATIONS
        codes = populate(6000, seed=1).table.scp_codes.map(ast.literal_eval)
        ours = pd.DataFrame([{name: name in superclasses(c) for name in SUPERCLASSES} for c in codes])
        np.testing.assert_allclose(ours.mean(), real.mean(), atol=0.015)
        np.testing.assert_allclose(ours.corr(), real.corr(), atol=0.05)


class TestReproducible:
    @pytest.mark.slow
    def test_same_arguments_same_bytes_whatever_the_threads(self, tmp_path):
        generate(tmp_path / "here", records=300, seed=5)
        code = f"from ecgexp.datasets.ecg.synthetic import generate; generate({str(tmp_path / 'there')!r}, 300, 5)"
        threads = {f"{name}_NUM_THREADS": "3" for name in ("OMP", "OPENBLAS", "MKL")}
        subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | threads)
        assert files(tmp_path / "here") == files(tmp_path / "there")

    def test_another_seed_gives_other_records(self, tmp_path):
        generate(tmp_path / "a", records=3, seed=0)
        generate(tmp_path / "b", records=3, seed=1)
        a, b = files(tmp_path / "a"), files(tmp_path / "b")
        assert all(a[name] != b[name] for name in a if name.endswith(".dat"))

    def test_sampling_rate_changes_neither_people_nor_beats(self, tmp_path):
        generate(tmp_path / "low", records=12, sampling_rate=100)
        generate(tmp_path / "high", records=12, sampling_rate=500)
        low, high = (pd.read_csv(tmp_path / name / "ptbxl_database.csv") for name in ("low", "high"))
        pd.testing.assert_frame_equal(low, high)
        for slow, fast in zip(low.filename_lr, high.filename_hr, strict=True):
            slow = wfdb.rdrecord(str(tmp_path / "low" / slow)).p_signal
            fast = wfdb.rdrecord(str(tmp_path / "high" / fast)).p_signal
            assert fast.shape == (5000, 12)
            steps = np.diff(fast[::5, 1:8], axis=0), np.diff(slow[:, 1:8], axis=0)
            assert np.corrcoef(steps[0].ravel(), steps[1].ravel())[0, 1] > 0.9


# --- what an ECG shows: measured on noise-free records at 500 Hz ---------------------------------------------


def examine(diagnosis=None, n=60, degree=0.9, rhythm="SR", block="", extra=""):
    """Signals (n, 5000, 12) in mV and the mean beat (n, 12, 400) from 0.3 s before R to 0.5 s after, from PQ."""
    rng = np.random.default_rng(0)
    hearts = heart.healthy(rng, np.full(n, 55.0), np.arange(n) % 2 == 0)
    if diagnosis:
        heart.afflict(hearts, np.arange(n), diagnosis, np.full(n, degree), np.random.default_rng(1))
    beats = heart.beat(
        np.random.default_rng(2), hearts, np.full(n, rhythm), np.full(n, extra), np.full(n, block, dtype="U4")
    )
    quiet = heart.Noise(np.zeros(n), np.zeros(n), np.zeros(n))
    signals = heart.record(np.random.default_rng(3), hearts, beats, quiet, RATE) / 1000
    mean = np.zeros((n, 12, 400))
    for i in range(n):
        peaks = [round(t * RATE) for t in beats.inside(i) if 0.35 < t < 9.45]
        mean[i] = np.mean([signals[i, p - 150 : p + 250].T for p in peaks], axis=0)
    return signals, mean - mean[:, :, 113:117].mean(axis=2, keepdims=True), beats


def at(mean, seconds):
    """Value of each lead at a time after R: (n, 12)."""
    return mean[:, :, 150 + round(seconds * RATE)]


def qrs_duration(mean):
    """Median over records, in ms: how long the leads together move fast."""
    speed = np.abs(np.diff(mean[:, :, 90:260], axis=2)).sum(axis=1)
    fast = speed > 0.13 * speed.max(axis=1, keepdims=True)
    return np.median(1000 / RATE * (fast.shape[1] - fast[:, ::-1].argmax(axis=1) - fast.argmax(axis=1)))


def lead(name):
    return LEADS.index(name)


@pytest.fixture(scope="module")
def normal():
    return examine()[1]


def test_einthoven_and_goldberger_hold(signals):
    i, ii, iii, avr, avl, avf = np.moveaxis(signals[..., :6], -1, 0)
    half_step = 0.00051
    np.testing.assert_allclose(i + iii, ii, atol=1e-9)
    np.testing.assert_allclose(avr, -(i + ii) / 2, atol=half_step)
    np.testing.assert_allclose(avl, (i - iii) / 2, atol=half_step)
    np.testing.assert_allclose(avf, (ii + iii) / 2, atol=half_step)


def test_normal_beat_has_normal_intervals(normal):
    power = np.abs(normal).mean(axis=(0, 1))
    onset_of_qrs = 150 - np.argmin(power[150:100:-1])
    p_wave = np.abs(normal[:, lead("II"), :onset_of_qrs]).mean(axis=0)
    onset_of_p = np.flatnonzero(p_wave > 0.2 * p_wave.max())[0]
    assert 120 <= 1000 / RATE * (onset_of_qrs - onset_of_p) <= 200
    assert 70 <= qrs_duration(normal) <= 110
    t_wave = normal[:, lead("V4"), 200:].mean(axis=0)
    end_of_t = 200 + np.flatnonzero(t_wave > 0.08 * t_wave.max())[-1]
    assert 350 <= 1000 / RATE * (end_of_t - onset_of_qrs) <= 440


def test_normal_beat_has_normal_waves(normal):
    peak, trough = np.median(normal.max(axis=2), axis=0), np.median(normal.min(axis=2), axis=0)
    assert -trough[lead("AVR")] > 3 * peak[lead("AVR")]
    r = [peak[lead(f"V{k}")] for k in range(1, 5)]
    assert r == sorted(r) and r[3] > 2.5 * r[0]
    assert -trough[lead("V1")] > 2 * peak[lead("V1")]
    assert peak[lead("V5")] > 3 * -trough[lead("V5")]
    t = np.median(at(normal, 0.25), axis=0)
    assert all(t[lead(name)] > 0.05 for name in ("I", "II", "V2", "V3", "V4", "V5", "V6"))
    assert t[lead("AVR")] < -0.05
    p = np.median(normal[:, :, 40:110], axis=0)
    assert 0.05 < p[lead("II")].max() < 0.25


@pytest.mark.parametrize(
    ("rhythm", "least", "most"), [("SR", 55, 105), ("SBRAD", 39, 62), ("STACH", 98, 150), ("AFIB", 45, 165)]
)
def test_heart_rate_from_r_peaks_is_that_of_the_rhythm(rhythm, least, most):
    signals, _, beats = examine(rhythm=rhythm, n=20)
    for i, signal in enumerate(signals):
        energy = np.convolve(np.square(np.diff(signal, axis=0)).sum(axis=1), np.ones(40), "same")
        peaks = find_peaks(energy, height=0.2 * energy.max(), distance=120)[0] / RATE
        expected = beats.inside(i)
        assert abs(len(peaks) - len(expected)) <= 1
        assert least <= 60 / np.mean(np.diff(peaks)) <= most
        np.testing.assert_allclose(np.median(np.diff(peaks)), np.median(np.diff(expected)), atol=0.03)


def test_fibrillation_is_irregular_without_p_waves(normal):
    _, mean, beats = examine(rhythm="AFIB")
    spread = [np.std(np.diff(beats.inside(i))) / np.mean(np.diff(beats.inside(i))) for i in range(len(mean))]
    assert np.median(spread) > 0.12
    p = [np.median(m[:, lead("II"), 50:110].max(axis=1)) for m in (mean, normal)]
    assert p[0] < 0.6 * p[1]


def test_third_degree_block_parts_atria_and_ventricles():
    _, _, beats = examine("3AVB", block="3AVB", n=20)
    for i in range(20):
        atrial = beats.atrial[i][(beats.atrial[i] >= 0) & (beats.atrial[i] < 10)]
        assert len(atrial) > 1.3 * len(beats.inside(i))


def test_ventricular_extra_beats_come_early():
    beats = examine(extra="PVC", n=20)[2]
    for i in range(20):
        events = beats.ventricular[i]
        early = np.flatnonzero((beats.conducted[i] == 0) & (events > 0.5) & (events < 9))
        assert len(early)
        before, after = events[early] - events[early - 1], events[early + 1] - events[early]
        assert (before < 0.9 * after).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("diagnosis", "least", "most"),
    [("CLBBB", 120, 190), ("CRBBB", 115, 190), ("IVCD", 105, 170), ("IRBBB", 95, 140), ("LAFB", 75, 120)],
)
def test_conduction_disturbances_widen_qrs(normal, diagnosis, least, most):
    duration = qrs_duration(examine(diagnosis)[1])
    assert least <= duration <= most
    assert duration > qrs_duration(normal)


@pytest.mark.slow
def test_bundle_branch_blocks_have_their_pictures(normal):
    right, left = examine("CRBBB")[1], examine("CLBBB")[1]
    late = slice(150 + 20, 150 + 50)
    assert np.median(right[:, lead("V1"), late].max(axis=1)) > 0.3 > np.median(normal[:, lead("V1"), late].max(axis=1))
    assert np.median(left[:, lead("V1")].min(axis=1)) < -1
    assert np.median(at(left, 0.27)[:, lead("V6")]) < -0.05
    anterior = examine("LAFB")[1]
    assert np.median(anterior[:, lead("III")].min(axis=1)) < -0.4
    assert np.median(anterior[:, lead("AVL")].max(axis=1)) > 0.4


def test_first_degree_block_prolongs_pr(normal):
    def p_peak(mean):
        return np.argmax(np.median(mean[:, lead("II"), :115], axis=0))

    assert 1000 / RATE * (p_peak(normal) - p_peak(examine("1AVB")[1])) > 50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("diagnosis", "leads"),
    [
        ("IMI", ["II", "III", "AVF"]),
        ("ASMI", ["V1", "V2", "V3"]),
        ("AMI", ["V2", "V3", "V4"]),
        ("LMI", ["I", "AVL", "V5", "V6"]),
    ],
)
def test_infarction_shows_q_and_raised_st_in_its_region(normal, diagnosis, leads):
    mean = examine(diagnosis)[1]
    inside = [lead(name) for name in leads]
    st = at(mean, 0.09).mean(axis=0) - at(normal, 0.09).mean(axis=0)
    assert (st[inside] > 0.04).all()
    assert st[inside].mean() > 0.05 + np.delete(st, inside).mean()
    q = at(mean, -0.028).mean(axis=0) - at(normal, -0.028).mean(axis=0)
    assert (q[inside] < -0.08).all()


@pytest.mark.slow
def test_hypertrophy_raises_the_voltage(normal):
    def sokolow_lyon(mean):
        return np.median(mean[:, lead("V5")].max(axis=1) - mean[:, lead("V1")].min(axis=1))

    assert sokolow_lyon(examine("LVH")[1]) > 3.2 > 1.35 * sokolow_lyon(normal)
    right = examine("RVH")[1]
    assert np.median(right[:, lead("V1")].max(axis=1)) > 1.8 * np.median(normal[:, lead("V1")].max(axis=1))
    large = examine("RAO/RAE")[1]
    assert np.median(large[:, lead("II"), 40:110].max(axis=1)) > 0.2


@pytest.mark.slow
def test_repolarisation_statements_change_st_and_t(normal):
    lateral = [lead(name) for name in ("I", "V5", "V6")]
    healthy_t, healthy_st = (at(normal, when)[:, lateral].mean() for when in (0.25, 0.09))
    ischaemia = examine("ISC_", degree=1.2)[1]
    assert at(ischaemia, 0.25)[:, lateral].mean() < -0.02 and healthy_t > 0.1
    for diagnosis in ("NST_", "DIG", "ISCLA"):
        assert at(examine(diagnosis)[1], 0.11)[:, lateral].mean() < healthy_st - 0.03
    assert at(examine("NDT")[1], 0.25)[:, lateral].mean() < 0.5 * healthy_t
    longer = examine("LNGQT")[1]
    assert at(longer, 0.36)[:, lateral].mean() > at(normal, 0.36)[:, lateral].mean() + 0.05


@pytest.mark.slow
@needs_real
def test_amplitudes_are_those_of_real_records(table, signals):
    real = pd.read_csv(REAL / "ptbxl" / "ptbxl_database.csv").iloc[:600]
    others = read(REAL / "ptbxl", real.filename_lr)

    def statistics(signals, codes):
        x = signals[[("NORM" in c) for c in codes]]
        x = x - np.median(x, axis=1, keepdims=True)
        return np.median([x.std(axis=1), np.percentile(x, 99.5, axis=1) - np.percentile(x, 0.5, axis=1)], axis=1)

    ratio = statistics(signals, table.codes) / statistics(others, real.scp_codes)
    assert ratio.min() > 0.6 and ratio.max() < 1.6


def test_linear_features_know_something_but_not_everything(table, signals):
    features = np.hstack([signals.mean(axis=1), signals.std(axis=1)])
    train, val = (table.strat_fold <= 7).to_numpy(), (table.strat_fold > 7).to_numpy()
    scores = []
    for name in SUPERCLASSES:
        target = np.array([name in superclasses(codes) for codes in table.codes])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features[train], target[train])
        scores.append(roc_auc_score(target[val], model.predict_proba(features[val])[:, 1]))
    assert 0.62 < np.mean(scores) < 0.87


class TestDataset:
    def test_every_label_set_can_be_read(self, tmp_path):
        sets = {"superclass": 5, "subclass": 23, "diagnostic": 44, "form": 19, "rhythm": 12, "all": 71}
        for task, classes in sets.items():
            data = Synthetic(tmp_path / "data", cache_dir=tmp_path / "cache", records=200, labels=task, workers=1)
            assert len(data.label_names) == classes
            split = data.load("train")
            assert split.targets.shape == (len(split), classes) and len(split) > 40
            assert split.inputs["signal"].shape[1:] == (1000, 12)
        assert len(list((tmp_path / "data").iterdir())) == 1

    @pytest.mark.slow
    def test_a_more_certain_label_holds_for_fewer_records(self, tmp_path):
        def positives(least):
            data = Synthetic(tmp_path, cache_dir=tmp_path / "cache", records=300, min_likelihood=least, workers=1)
            return data.load("train").targets.sum()

        assert positives(0) > positives(50) > positives(100) > 0

    def test_options_that_change_the_records_have_folders_of_their_own(self, tmp_path):
        def root(**options):
            return Synthetic(tmp_path, cache_dir=tmp_path, **options).root

        roots = {
            root(),
            root(records=10),
            root(generator_seed=1),
            root(sampling_rate=500),
            root(labels="rhythm"),
        }
        assert len(roots) == 4

    @pytest.mark.slow
    def test_processes_at_once_make_one_folder(self, tmp_path):
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            found = pool.map(_prepare, [tmp_path] * 2)
        assert found[0] == found[1]
        assert [p.name for p in (tmp_path / "data").iterdir()] == ["v1-60-seed0-100hz"]

    def test_an_interrupted_generation_leaves_nothing(self, tmp_path, monkeypatch):
        data = Synthetic(tmp_path / "data", cache_dir=tmp_path / "cache", records=20, workers=1)
        with monkeypatch.context() as patch:
            patch.setattr(synthetic, "_write_statements", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                data.prepare()
        assert list((tmp_path / "data").iterdir()) == []
        data.prepare()
        assert len(data.load("train")) > 10

    @pytest.mark.parametrize("name", ["ptbxl_database.csv", "scp_statements.csv", "SHA256SUMS.txt"])
    def test_a_flipped_bit_in_a_generated_table_is_found(self, tmp_path, name):
        data = Synthetic(tmp_path / "data", cache_dir=tmp_path / "cache", records=20, workers=1)
        data.prepare()
        content = (data.root / name).read_bytes()
        for place in np.random.default_rng(0).integers(len(content), size=20):
            (data.root / name).write_bytes(content[:place] + bytes([content[place] ^ 2]) + content[place + 1 :])
            with pytest.raises(
                UserError, match=r"tables in .*v1-20-seed0-100hz have changed since they were generated: remove"
            ):
                Synthetic(tmp_path / "data", cache_dir=tmp_path / "cache", records=20, workers=1).prepare()
        (data.root / name).unlink()
        if name == "SHA256SUMS.txt":  # a folder that an earlier version generated has none
            Synthetic(tmp_path / "data", cache_dir=tmp_path / "cache", records=20, workers=1).prepare()
        else:
            with pytest.raises(UserError, match=r"remove (this folder|it)"):
                Synthetic(tmp_path / "data", cache_dir=tmp_path / "cache", records=20, workers=1).prepare()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"records": 0}, "'dataset.records' is 0"),
            ({"records": 100_000}, "99999"),
            ({"generator_seed": -1}, "'dataset.generator_seed' is -1"),
            ({"sampling_rate": 250}, "'dataset.sampling_rate' is 250"),
        ],
    )
    def test_impossible_options_are_refused(self, tmp_path, options, message):
        with pytest.raises(UserError, match=message):
            Synthetic(tmp_path, cache_dir=tmp_path, **options)

    def test_a_root_that_cannot_be_written_is_named(self, tmp_path):
        (tmp_path / "file").touch()
        data = Synthetic(tmp_path / "file", cache_dir=tmp_path / "cache", records=3, workers=1)
        with pytest.raises(UserError, match=r"cannot be written to .*file.*dataset\.root"):
            data.prepare()

    def test_a_folder_with_something_in_it_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("important")
        with pytest.raises(UserError, match="is not empty"):
            generate(tmp_path, records=3)
        assert files(tmp_path) == {"thesis.txt": b"important"}


def _prepare(folder):
    data = Synthetic(folder / "data", cache_dir=folder / "cache", records=60, workers=1)
    data.prepare()
    return data.fingerprint()


def _interrupt(path):
    raise KeyboardInterrupt

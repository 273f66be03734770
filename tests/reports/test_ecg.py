"""A drawn record has the scale that a cardiologist's ruler expects."""

from __future__ import annotations

import io
from itertools import pairwise

import matplotlib.image
import numpy as np
import pytest

from ecgexp.reports.ecg import GRID, LONGEST_SECONDS, ecg_figure

RATE = 100
LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")


def record(seconds: float = 10, leads: int = 12) -> np.ndarray:
    """Each lead has one spike of 1 mV, lead i at i * 0.05 s into every second, on a zero line."""
    signal = np.zeros((round(seconds * RATE), leads))
    for lead in range(leads):
        signal[lead * 5 :: RATE, lead] = 1.0
    return signal


def traces(figure) -> dict[str, list[np.ndarray]]:
    """Points in mm of all traces, by the name that stands at their beginning."""
    (axes,) = figure.axes
    lines = [line.get_xydata() for line in axes.lines]
    found: dict[str, list[np.ndarray]] = {}
    for text in axes.texts:
        x, y = text.get_position()
        (points,) = [p for p in lines if len(p) > 6 and abs(p[0, 0] - x) < 2 and 0 < y - np.nanmedian(p[:, 1]) < 20]
        found.setdefault(text.get_text(), []).append(points)
    return found


def pulses(figure) -> list[np.ndarray]:
    (axes,) = figure.axes
    return [points for line in axes.lines if len(points := line.get_xydata()) == 6]


def test_ten_seconds_are_250_mm_and_a_millivolt_is_10():
    ((rhythm,),) = [found for name, found in traces(ecg_figure(record(), RATE, LEADS)).items() if name == "V1"]
    assert len(traces(ecg_figure(record(), RATE, LEADS))["II"]) == 2
    strip = max(traces(ecg_figure(record(), RATE, LEADS))["II"], key=len)
    assert np.ptp(strip[:, 0]) == pytest.approx(250 * 999 / 1000)
    assert np.ptp(strip[:, 1]) == pytest.approx(10)
    assert np.ptp(rhythm[:, 0]) == pytest.approx(62.5 * 249 / 250)


def test_a_printed_page_has_the_size_that_its_millimetres_say():
    figure = ecg_figure(record(), RATE, LEADS, title="one\ntwo")
    (axes,) = figure.axes
    width, height = figure.get_size_inches() * 25.4
    box = axes.get_position()
    assert box.width * width == pytest.approx(np.ptp(axes.get_xlim()))
    assert box.height * height == pytest.approx(np.ptp(axes.get_ylim()))
    assert np.ptp(axes.get_xlim()) % 5 == 0
    assert np.ptp(axes.get_ylim()) % 5 == 0
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    picture.seek(0)
    assert matplotlib.image.imread(picture).shape[1] == pytest.approx(width / 25.4 * 150, abs=1)


def test_the_grid_has_a_line_each_millimetre_and_a_stronger_one_each_five():
    (axes,) = ecg_figure(record(), RATE, LEADS).axes
    spacings = []
    for lines in axes.collections:
        upright = sorted({segment[0, 0] for segment in lines.get_segments() if segment[0, 0] == segment[1, 0]})
        spacings.append((set(np.diff(upright)), lines.get_linewidth()[0]))
    (fine, thin), (coarse, thick) = spacings
    assert fine == {1.0}
    assert coarse == {5.0}
    assert thin < thick


def test_each_row_begins_with_a_pulse_of_one_millivolt_for_200_ms_on_the_lines():
    found = pulses(ecg_figure(record(), RATE, LEADS))
    assert len(found) == 4
    for pulse in found:
        assert np.ptp(pulse[:, 1]) == 10
        assert (pulse[3] - pulse[2]).tolist() == [5, 0]
        assert pulse[0, 1] % 5 == 0


@pytest.mark.parametrize("names", [LEADS, tuple(name.title().replace("A", "a") for name in LEADS), LEADS[::-1]])
def test_the_usual_layout_shows_each_lead_in_its_quarter_of_the_time(names):
    signal = record()[:, [LEADS.index(name.upper()) for name in names]]
    shown = traces(ecg_figure(signal, RATE, names))
    assert set(shown) == {"I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"}
    for row in GRID:
        for column, lead in enumerate(row):
            printed = f"a{lead[1:]}" if lead.startswith("A") else lead
            points = min(shown[printed], key=len)
            assert points[0, 0] == pytest.approx(15 + 62.5 * column)
            # The spike of this lead, where it is within this quarter.
            spikes = np.flatnonzero(points[:, 1] > np.median(points[:, 1]) + 9)
            first = column * 250
            expected = [i - first for i in range(LEADS.index(lead) * 5, 1000, RATE) if first <= i < first + 250]
            assert spikes.tolist() == expected


@pytest.mark.parametrize(("seconds", "leads"), [(4, 12), (20, 12), (10, 2), (10, 11)])
def test_anything_else_has_a_row_per_lead(seconds, leads):
    figure = ecg_figure(record(seconds, leads), RATE, LEADS[:leads])
    assert len(pulses(figure)) == leads
    for found in traces(figure).values():
        assert [len(points) for points in found] == [seconds * RATE]


def test_a_long_record_is_cut_with_a_note_in_the_picture():
    figure = ecg_figure(record(40, 2), RATE, LEADS[:2], footnote="seen")
    assert all(len(points) == LONGEST_SECONDS * RATE for (points,) in traces(figure).values())
    assert "first 30 s of 40 s · seen" in [text.get_text() for text in figure.texts]


def test_traces_of_neighbouring_rows_do_not_meet_at_usual_voltages():
    signal = record()
    signal[:, 7] *= -2.5
    found = [points for name in traces(ecg_figure(signal, RATE, LEADS)).values() for points in name]
    rows = {}
    for points in found:
        rows.setdefault(round(float(np.median(points[:, 1]))), []).append(points)
    assert len(rows) == 4
    order = sorted(rows)
    for below, above in pairwise(order):
        assert max(p[:, 1].max() for p in rows[below]) < min(p[:, 1].min() for p in rows[above])


def test_an_offset_does_not_move_a_lead_and_missing_samples_leave_a_gap():
    plain = traces(ecg_figure(record(4), RATE, LEADS))
    signal = record(4) + 7
    signal[50:60, 0] = np.nan
    moved = traces(ecg_figure(signal, RATE, LEADS))
    np.testing.assert_allclose(moved["V6"][0], plain["V6"][0])
    assert np.isnan(moved["I"][0][50:60, 1]).all()


def test_scales_and_title_stand_on_it():
    texts = [text.get_text() for text in ecg_figure(record(), RATE, LEADS, title="patient 7\nNORM 0.83").texts]
    assert {"patient 7", "NORM 0.83"} < set(texts)
    assert any("25 mm/s" in text and "10 mm/mV" in text and "100 Hz" in text for text in texts)


@pytest.mark.parametrize("shape", [(0, 12), (1000,), (1000, 11)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(samples, 12\)"):
        ecg_figure(np.zeros(shape), RATE, LEADS)

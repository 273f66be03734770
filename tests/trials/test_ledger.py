"""Which run stands for which trial, after changes of threads, devices, data and code, deletions and kills."""

from __future__ import annotations

import math
import random
import sqlite3
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir

from ecgexp import CONF
from ecgexp.config.resolvers import register_resolvers
from ecgexp.reports.findings import merge
from ecgexp.reports.tables import best_trial, failures, sweep_results, sweep_table, swept_keys
from ecgexp.search.study import StudyTrial
from ecgexp.tracking.names import Tag
from ecgexp.tracking.run import Run
from ecgexp.tracking.runs import children, metrics_sum, standing
from ecgexp.tracking.store import open_store
from ecgexp.trials.identity import identity
from ecgexp.trials.job import Job
from ecgexp.trials.ledger import RetriesExhausted, begin_for_dead, claim, claim_unidentified, tags_of, use_finished
from ecgexp.trials.run import run_trial

F1 = "best/val/mlcm_f1_macro"
ALIKE = {"data": "A", "device": "cpu", "threads": 1, "code": ""}
RATES = ("0.1", "0.2")


class Killed(BaseException):
    """What happens to a process in the middle of a trial."""


def new_store(folder):
    return open_store(SimpleNamespace(root=str(folder), uri=None, experiment="ecgexp", patience=0.0))


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    return new_store(tmp_path_factory.mktemp("store"))


class Sweep:
    """A sweep whose trials are claimed and recorded as `run_trial` does, with a value that the test knows."""

    def __init__(self, store, name="sweep", axis="lr", values=RATES, net=None):
        self.store, self.axis, self.values, self.net = store, axis, values, net or name
        with Run(store, name, {"kind": "sweep", "sweep": name}) as run:
            self.parent = run.id

    def start(self, here=ALIKE, killed_in=None, resume=True, max_retries=3):
        """One command; returns for each trial whether it was 'trained', 'resumed', 'taken' or 'reused'."""
        return [
            self.trial(number, value, here, number == killed_in, resume, max_retries)
            for number, value in enumerate(self.values)
        ]

    def trial(self, number, value, here, killed=False, resume=True, max_retries=3, study=None):
        override = f"{self.axis}={value}"
        job = Job([override], {"model": "linear"}, "", "", number, self.parent, False, study, (self.axis,))
        config = {"dataset": {}, "trainer": {}, "net": self.net}
        group, _, key = self.axis.rpartition(".")
        (config[group] if group else config)[key] = value
        tags = {**tags_of(config, job), "dataset_fingerprint": here["data"], "precision": "32"}
        tags |= {"threads": here["threads"], "device": here["device"], "code": here["code"]}
        known = (here["data"], here["device"], here["threads"], "32", here["code"])
        tags["identity"] = identity(config, *known)
        claimed = claim(self.store, tags, job, max_retries, resume)
        if claimed.earlier is not None and claimed.earlier.info.status == "FINISHED":
            use_finished(self.store, claimed, job, tags)
            return "taken" if claimed.is_own else "reused"
        marks = {**tags, **claimed.tags, "attempts": claimed.attempts}
        try:
            with Run(self.store, job.name, marks, self.parent, claimed.earlier) as run:
                if killed:
                    raise KeyboardInterrupt
                metrics = {F1: fresh_value(value, here)}
                run.log_metrics(metrics)
                run.set_tags({Tag.METRICS_SUM: metrics_sum(metrics)})
        except KeyboardInterrupt:
            raise Killed from None
        return "resumed" if claimed.earlier else "trained"

    @property
    def table(self):
        return sweep_results(self.store, self.parent)

    def rows(self):
        return dict(zip(self.table[self.axis], self.table[F1], strict=True))


def fresh_value(value, here):
    """What training gives: a number that each of the things it depends on changes."""
    threads = here["threads"] if here["device"] == "cpu" else 0
    return random.Random(repr((value, here["data"], here["device"], threads, here["code"]))).random()


def expect(sweep, here=ALIKE):
    """The table has every cell exactly once, with the value that a fresh store would give."""
    table = sweep.table
    assert sorted(table[sweep.axis]) == sorted(sweep.values)
    assert set(table["status"]) == {"FINISHED"}
    assert sweep.rows() == {value: pytest.approx(fresh_value(value, here)) for value in sweep.values}


TWO = {**ALIKE, "threads": 2}


def test_a_run_that_another_one_replaced_counts_again_when_it_is_needed_again(shared_store):
    sweep = Sweep(shared_store)
    for here, what in ((TWO, "trained"), (ALIKE, "trained"), (TWO, "taken"), (ALIKE, "taken")):
        assert sweep.start(here) == [what] * 2
        expect(sweep, here)
    assert len(children(shared_store, sweep.parent)) == 4, "nothing was trained twice"


@pytest.mark.parametrize("change", [{"data": "B"}, {"device": "cuda"}, {"threads": 2}, {"code": "new"}])
def test_changes_and_their_reversal_are_reported_with_the_table(shared_store, change):
    sweep = Sweep(shared_store, name=f"back {change}")
    sweep.start()
    sweep.start({**ALIKE, **change})
    sweep.start()
    expect(sweep)
    (remark,) = sweep.table.attrs["remarks"]
    (what,) = change
    assert remark.startswith("Left out, since another run stands for the same trial: run ")
    assert f"of trial 0 (other {what}" in remark and f"of trial 1 (other {what}" in remark


def test_a_reused_run_brings_none_of_its_sweeps_marks_along(shared_store):
    first = Sweep(shared_store, name="first", net="marks")
    first.start(TWO)
    first.start(ALIKE)
    for source in children(shared_store, first.parent):
        shared_store.client.set_tag(source.info.run_id, Tag.SUPERSEDED, "by an earlier version")
    second = Sweep(shared_store, name="second", net="marks")
    for _ in range(2):
        assert second.start(TWO) in (["reused"] * 2, ["taken"] * 2)
        expect(second, TWO)
        assert second.table["reused"].all()
    sources = {run.info.run_id: run for run in children(shared_store, first.parent)}
    for run in children(shared_store, second.parent):
        assert Tag.SUPERSEDED not in run.data.tags
        source = sources[run.data.tags["reused_from"]]
        assert source.data.tags["threads"] == "2"
        assert source.data.tags["claim"] == run.data.tags["claim"] == "1"


@pytest.mark.parametrize(
    ("axis", "values", "trained"),
    [
        ("trainer.threads", ("1", "2"), 2),
        ("trainer.accelerator", ("cpu", "auto"), 1),
        ("dataset.workers", ("1", "2", "4"), 1),
        ("dataset.root", ("a", "b"), 1),
        ("memory_budget", ("1.0", "8.0"), 1),
    ],
)
def test_a_key_that_makes_no_other_cell_has_a_row_for_each_of_its_values(shared_store, axis, values, trained):
    sweep = Sweep(shared_store, name=axis, axis=axis, values=values)
    here = [{**ALIKE, "threads": int(value) if axis == "trainer.threads" else 1} for value in values]
    for _ in range(2):
        for number, value in enumerate(values):
            sweep.trial(number, value, here[number])
        assert list(sweep.table[axis]) == list(values)
        assert swept_keys(sweep.table) == [axis]
    assert sweep.table["source_run_id"].nunique() == trained, "the same training is not done again"


def test_the_same_cell_twice_is_one_row(shared_store):
    sweep = Sweep(shared_store, name="twice", values=("0.7", "0.7"))
    assert sweep.start() == ["trained", "taken"]
    assert len(sweep.table) == 1


def test_a_deleted_run_that_was_trained_again_and_restored_counts_once(shared_store):
    sweep = Sweep(shared_store, name="restored")
    sweep.start()
    deleted = sweep.table["run_id"][0]
    shared_store.client.delete_run(deleted)
    assert sweep.start() == ["trained", "taken"]
    shared_store.client.restore_run(deleted)
    expect(sweep)
    assert deleted not in set(sweep.table["run_id"])
    assert "of trial 0 (the same trial, trained once more)" in sweep.table.attrs["remarks"][0]
    other = Sweep(shared_store, name="another", net="restored")
    assert other.start() == ["reused"] * 2
    found = (standing(children(shared_store, one.parent)) for one in (sweep, other))
    _, merged = merge(dict(zip(("one", "two"), found, strict=True)))
    assert list(merged["lr"]) == list(RATES), "once also in one table of two sweeps"
    shared_store.client.delete_run(sweep.table["run_id"][0])
    assert sweep.start() == ["taken", "taken"]
    expect(sweep)
    assert deleted in set(sweep.table["run_id"])


def test_a_reused_trial_whose_run_is_deleted_is_trained_again(shared_store):
    first = Sweep(shared_store, name="origin", net="origin")
    first.start()
    second = Sweep(shared_store, name="copy", net="origin")
    assert second.start() == ["reused"] * 2
    shared_store.client.delete_run(first.table["run_id"][0])
    assert second.start() == ["trained", "taken"]
    expect(second)
    assert list(second.table["reused"]) == [False, True]


def test_a_metric_that_was_changed_in_the_database_is_no_result(tmp_path):
    store = new_store(tmp_path)
    sweep, other = (Sweep(store, name, net="net") for name in ("one", "other"))
    sweep.start()
    run_id = sweep.table["run_id"][0]
    database = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")
    for table in ("metrics", "latest_metrics"):
        database.execute(f"UPDATE {table} SET value = value + 1e-9 WHERE run_uuid = ?", [run_id])
    database.commit()
    database.close()
    assert list(sweep.table["status"]) == ["DAMAGED", "FINISHED"]
    assert "not those that were recorded" in failures(sweep.table, ["lr"])[0]
    best = best_trial(sweep.table, F1)
    assert best is not None and best["trial"] == 1
    assert other.start() == ["trained", "reused"]
    assert sweep.start() == ["reused", "taken"]
    for one in (sweep, other):
        expect(one)


def test_metrics_that_stores_keep_in_their_own_way_make_no_damage():
    odd = {"best/val/loss": math.inf, "best/val/auroc_macro": math.nan, "test/loss": 1.0, "best/val/f1_macro": 0.1}
    assert metrics_sum(odd) == metrics_sum({"best/val/loss": math.nan, "best/val/f1_macro": 0.1})
    assert metrics_sum(odd) != metrics_sum({**odd, "best/val/f1_macro": 0.10000000000000002})


def test_a_killed_trial_is_resumed_in_the_run_that_it_had(shared_store):
    sweep = Sweep(shared_store, name="killed")
    with pytest.raises(Killed):
        sweep.start(killed_in=1)
    assert sweep.start(TWO) == ["trained", "trained"], "with other threads it is another trial"
    expect(sweep, TWO)
    assert sweep.start() == ["taken", "resumed"]
    expect(sweep)


def test_a_trial_that_failed_before_its_data_were_read_has_one_row(shared_store):
    sweep = Sweep(shared_store, name="unread", values=("0.1",))
    config = {"dataset": {}, "trainer": {}, "net": sweep.net, "lr": "0.1"}
    job = Job(["lr=0.1"], {"model": "linear"}, "", "", 0, sweep.parent, False, None, ("lr",))
    tags = tags_of(config, job)
    for attempt in (1, 2, 3):
        claimed = claim_unidentified(shared_store, tags, job)
        assert claimed.attempts == attempt
        with (
            pytest.raises(OSError),
            Run(shared_store, "unread", {**tags, **claimed.tags, "attempts": attempt}, sweep.parent, claimed.earlier),
        ):
            raise OSError("The data are not there.")
        assert list(sweep.table["status"]) == ["FAILED"]
    with pytest.raises(RetriesExhausted, match="The data are not there"):
        sweep.start(max_retries=2)
    assert sweep.start(max_retries=3) == ["resumed"]
    expect(sweep)


def test_the_early_death_of_a_process_does_not_replace_a_finished_run(shared_store):
    sweep = Sweep(shared_store, name="lost", values=("0.1",))
    sweep.start()
    config = {"dataset": {}, "trainer": {}, "net": sweep.net, "lr": "0.1"}
    job = Job(["lr=0.1"], {"model": "linear"}, "", "", 0, sweep.parent, False, None, ("lr",))
    shared_store.client.set_terminated(begin_for_dead(shared_store, config, job), "FAILED")
    assert list(sweep.table["status"]) == ["FAILED"], "the latest claim"
    assert sweep.start() == ["taken"]
    expect(sweep)


def test_a_search_may_propose_the_same_twice_and_has_a_row_for_each(shared_store):
    search = Sweep(shared_store, name="search")
    for number in (0, 1):
        study = StudyTrial("", "", number, {})
        assert search.trial(number, "0.1", ALIKE, study=study) == ("trained", "reused")[number]
    assert list(search.table["trial"]) == [0, 1]
    assert search.trial(1, "0.1", ALIKE, study=StudyTrial("", "", 1, {})) == "taken"


def test_a_store_of_an_earlier_version_is_read_and_continued(shared_store):
    sweep = Sweep(shared_store, name="old")
    sweep.start(TWO)
    sweep.start(ALIKE)
    for run in children(shared_store, sweep.parent):  # as they were written before there were claims
        for tag in ("slot", "claim"):
            shared_store.client.delete_tag(run.info.run_id, tag)
        if run.data.tags["threads"] == "2":
            shared_store.client.set_tag(run.info.run_id, Tag.SUPERSEDED, "the threads changed")
    expect(sweep, ALIKE)
    assert sweep.start(TWO) == ["taken"] * 2
    expect(sweep, TWO)
    assert sweep.start(ALIKE) == ["taken"] * 2
    expect(sweep, ALIKE)


def test_resume_false_trains_again(shared_store):
    sweep = Sweep(shared_store, name="afresh")
    sweep.start()
    assert sweep.start(resume=False) == ["trained"] * 2
    expect(sweep)


def test_trials_that_differ_in_more_than_their_keys_are_reported(shared_store):
    sweep = Sweep(shared_store, name="grows", values=("0.1",))
    sweep.start()
    sweep.values = ("0.1", "0.2")
    sweep.trial(1, "0.2", {"data": "B", "device": "cuda", "threads": 3, "code": "new"})
    remark = " ".join(sweep.table.attrs["remarks"])
    for what in ("data", "device", "number of threads", "code of your own classes"):
        assert f"The trials differ in {what}, which no swept key explains" in remark
    assert "(A: trial 0, B: trial 1)" in remark
    assert "The trials differ in data" in sweep_table(sweep.table, ["lr"], [F1])


def test_nets_of_different_code_are_no_repetitions_of_each_other(shared_store):
    sweep = Sweep(shared_store, name="seeds", axis="seed", values=("0", "1"))
    sweep.start({**ALIKE, "code": "old"})
    assert swept_keys(sweep.table) == ["seed"]
    sweep.trial(2, "2", {**ALIKE, "code": "new"})
    assert swept_keys(sweep.table) == ["seed", "code"]


def test_trials_of_another_version_of_this_package_are_pointed_out(shared_store):
    sweep = Sweep(shared_store, name="version")
    sweep.start()
    run_id = sweep.table["run_id"][1]
    shared_store.client.set_tag(run_id, "package", "0.0.9+abc")
    remarks = sweep.table.attrs["remarks"]
    assert any("has changed since trial 1 was trained (by 0.0.9+abc, now" in sentence for sentence in remarks)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [0, 1, *(pytest.param(chunk, marks=pytest.mark.full) for chunk in range(2, 8))])
def test_after_any_events_every_cell_occurs_once_with_the_right_value(tmp_path, chunk):
    store = new_store(tmp_path)
    for number in range(25):
        chance = random.Random(1000 * chunk + number)
        _play(store, f"{number}", chance)


def _play(store, name, chance):
    """A random sequence of what may happen to a small sweep, and to another one beside it."""
    sweep, other = (Sweep(store, f"{name} {which}", net=name) for which in ("one", "other"))
    here, deleted, told = dict(ALIKE), [], []
    choices = {"data": "AB", "device": ("cpu", "cuda"), "threads": (1, 2), "code": ("", "new")}
    for _ in range(5):
        event = chance.choice([*choices, "delete", "delete", "restore", "kill", "other"])
        told.append(event)
        if event in choices:
            here[event] = chance.choice(choices[event])
        elif event == "delete" and (there := children(store, sweep.parent) + children(store, other.parent)):
            deleted.append(chance.choice(there).info.run_id)
            store.client.delete_run(deleted[-1])
        elif event == "restore" and deleted:
            store.client.restore_run(deleted.pop(chance.randrange(len(deleted))))
        elif event == "kill":
            try:
                sweep.start(here, killed_in=chance.randrange(len(RATES)))
            except Killed:
                assert sweep.table[sweep.axis].is_unique, told
        elif event == "other":
            other.start(here)
            expect(other, here)
        assert sweep.table.empty or sweep.table[sweep.axis].is_unique, told
        sweep.start(here)
        expect(sweep, here)
        trained = sweep.table["source_run_id"]
        assert trained.is_unique, told


# --- with real trainings

SMALL = (
    *("model=linear", "max_epochs=1", "trainer=cpu", "tracking.system_metrics=false", "tracking.log_model=none"),
    *("dataset.records=200", "trainer.threads=1"),
)


def train(store, parent, *overrides):
    """A trial of a sweep in this process."""
    register_resolvers()
    folder = str(store.root.parent)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [*SMALL, f"tracking.root={folder}", f"cache_dir={folder}/cache", *overrides])
    return run_trial(cfg, Job(list(overrides), {"model": "linear"}, folder, folder, 0, parent, False))


@pytest.mark.slow
def test_latency_is_measured_of_a_trial_that_another_sweep_trained_without_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = new_store(tmp_path)
    first, second = (Sweep(store, name) for name in ("first", "second"))
    trained = train(store, first.parent, "lr=0.01")
    assert not trained.reused
    for _ in range(2):
        reused = train(store, second.parent, "lr=0.01", f"objective=[{F1},latency,parameters]")
        assert reused.reused
        score, latency, parameters = reused.values
        assert [score] == trained.values
        assert 0 < latency < 1000
        assert parameters == second.table["parameters"][0]
    again = train(store, first.parent, "lr=0.01", f"objective=[{F1},latency]")
    assert again.run_id == trained.run_id
    assert len(again.values) == 2

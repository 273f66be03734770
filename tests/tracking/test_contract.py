"""A net is used only as it was trained: each change of its contract is detected."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from ecgexp.commands.predict import predict_records
from ecgexp.config.components import make_target
from ecgexp.datasets.base import Input
from ecgexp.errors import UserError
from ecgexp.models import Linear
from ecgexp.tracking.contract import Contract
from ecgexp.tracking.model import log_model
from ecgexp.tracking.restore import dataset_kind, load_folder, load_trained, read_source
from ecgexp.tracking.store import open_store
from ecgexp.training.network import Network

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trained import is_one_sentence

TARGET = {"_target_": "ecgexp.targets.MultiLabel", "threshold": 0.5}
LEADS = ("I", "II")


def contract(**changes: Any) -> Contract:
    signal = {"unit": "mV", "rate": 100.0, "coordinates": {"lead": LEADS}, "normalize_over": ("time",), **changes}
    return Contract((Input("signal", ("lead", "time"), (2, 40), **signal),), ("A", "B", "C"), TARGET)


def network() -> Network:
    torch.manual_seed(0)
    statistics = np.array([[0.1], [0.2]], np.float32), np.array([[1.0], [2.0]], np.float32)
    return Network(Linear(leads=2, samples=40, outputs=3), {"signal": statistics}).eval()


def write_run(folder: Path, contract: Contract) -> Path:
    folder.mkdir()
    net = network()
    contract.bind(net)
    torch.save(net.state_dict(), folder / "weights.pt")
    (folder / "data.json").write_text(json.dumps({**contract.to_json(), "counts": {"train": {"records": 3}}}))
    model = {"_target_": "ecgexp.models.Linear", "leads": 2, "samples": 40, "outputs": 3}
    config = {"model": model, "target": TARGET, "dataset": {"root": "data"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run", contract())


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("exported")
    store = open_store(SimpleNamespace(root=str(root), uri=None, experiment="ecgexp", patience=0.0))
    example = np.random.default_rng(0).normal(size=(2, 2, 40)).astype(np.float32)
    run_id = store.client.create_run(store.experiment_id).info.run_id
    assert log_model(store, run_id, network(), example, contract(), make_target(TARGET, ("A", "B", "C")))
    (found,) = root.rglob("MLmodel")
    return found.parent


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """All leaves of nested plain values, each with its path."""
    if path:
        yield path, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def others(value: Any) -> Iterator[Any]:
    """Values like this one that mean something else."""
    if isinstance(value, str):
        yield from (value + "x", {"mV": "uV"}.get(value, ""), None)
    elif isinstance(value, bool | int | float):
        yield from (value * 2, value + 1, None)
    elif isinstance(value, list):
        yield from (value[:-1], [*value, *value[:1]], *([value[::-1]] if len(value) > 1 else []), None)
    elif isinstance(value, dict):
        yield from ({}, None)
    else:
        yield from ("x", [])


def mutations() -> list[tuple[str, dict[str, Any]]]:
    whole = contract().to_json()
    found = []
    for path, value in places(whole):
        for other in others(value):
            changed = copy.deepcopy(whole)
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = other
            found.append((f"{'.'.join(map(str, path))}={other!r}", changed))
        if isinstance(path[-1], str):
            changed = copy.deepcopy(whole)
            place = changed
            for key in path[:-1]:
                place = place[key]
            del place[path[-1]]
            found.append((f"without {'.'.join(map(str, path))}", changed))
    return found


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_trained(str(folder), trust=["pt2"])
    message = str(caught.value)
    assert is_one_sentence(message) and message.endswith("."), message
    return message


def test_every_field_is_in_the_plain_values_that_are_mutated():
    whole = contract().to_json()
    assert set(whole) == {field.name for field in fields(Contract)}
    # how a dataset stores an input in memory does not concern the net; fixed statistics are there where there are some
    assert set(whole["inputs"][0]) == {field.name for field in fields(Input)} - {"stored", "statistics"}
    fixed = contract(normalize_over=None, statistics=(0.0, 255.0))
    assert fixed.to_json()["inputs"][0]["statistics"] == [0.0, 255.0]
    assert fixed.digest != contract(normalize_over=None, statistics=(0.0, 1.0)).digest
    assert Contract.from_json(json.loads(json.dumps(whole))) == contract()


def test_each_mutation_is_found_in_a_folder_of_a_run(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    assert load_trained(str(folder)).contract == contract()
    for what, changed in mutations():
        (folder / "data.json").write_text(json.dumps(changed))
        assert "data.json" in refusal(folder), what


def test_each_mutation_is_found_in_an_exported_model(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    assert load_trained(str(folder), trust=["pt2"]).contract == contract()
    described = yaml.safe_load((folder / "MLmodel").read_text())
    for what, changed in mutations():
        (folder / "MLmodel").write_text(yaml.safe_dump({**described, "metadata": {"ecgexp": changed}}))
        assert "MLmodel" in refusal(folder), what


def test_a_contract_that_was_rewritten_as_of_an_earlier_version_is_found(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    earlier = {"labels": ["A", "B", "C"], "leads": ["II", "I"], "sampling_rate": 100, "samples": 40}
    (folder / "data.json").write_text(json.dumps(earlier))
    assert "another digest" in refusal(folder)


def test_a_run_of_an_earlier_version_has_no_digest_and_is_loaded(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    state = torch.load(folder / "weights.pt", weights_only=True)
    earlier = {"mean": state["mean_signal"], "std": state["std_signal"]}
    earlier |= {name: value for name, value in state.items() if name.startswith("net.")}
    torch.save(earlier, folder / "weights.pt")
    data = {"labels": ["A", "B", "C"], "multiclass": False, "leads": LEADS, "sampling_rate": 100, "samples": 40}
    (folder / "data.json").write_text(json.dumps(data))
    model = {"_target_": "ecgexp.models.Linear", "leads": 2, "samples": 40, "classes": 3}
    config = {"model": model, "threshold": 0.5, "dataset": {"root": "data", "normalize": "per_lead"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert load_folder(folder).contract == contract()
    signal = torch.randn(1, 2, 40)
    torch.testing.assert_close(load_trained(str(folder)).net(signal), load_trained(str(run)).net(signal))


def test_a_configuration_with_another_target_is_refused(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["target"]["threshold"] = 0.1
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert "different targets" in refusal(folder)


@pytest.mark.parametrize(("unit", "times"), [("mV", 1), ("uV", 1000), ("µV", 1000), ("V", 0.001)])
def test_records_are_given_in_the_unit_that_the_net_takes(tmp_path, unit, times):
    folder = write_run(tmp_path / "run", contract(unit=unit))
    trained = load_trained(str(folder))
    signal = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    found = predict_records(trained, [SimpleNamespace(signal=signal)])
    expected = network()(torch.from_numpy(signal.T * times)[None].float()).sigmoid()
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [{"unit": "single beats"}, {"unit": None}, {"rate": None}, {"coordinates": {}}])
def test_a_net_that_takes_something_else_than_a_voltage_is_refused(tmp_path, changes):
    trained = load_trained(str(write_run(tmp_path / "run", contract(**changes))))
    with pytest.raises(UserError, match=r"python -m ecgexp\.evaluate uses it on its own data set"):
        predict_records(trained, [SimpleNamespace(signal=np.zeros((40, 2), np.float32))])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": 50.0}, "the input 'signal' with rate=100.0, but the data have 50.0"),
        ({"coordinates": {"lead": ("II", "I")}}, r"coordinates=lead \(I, II\), but the data have lead \(II, I\)"),
        ({"unit": "uV"}, "unit=mV, but the data have uV"),
        ({"normalize_over": None}, "normalize_over"),
    ],
)
def test_a_dataset_with_other_inputs_is_refused(changes, words):
    other = contract(**changes)
    dataset = SimpleNamespace(inputs=other.inputs, label_names=other.labels)
    contract().check_data(SimpleNamespace(inputs=contract().inputs, label_names=("A", "B", "C")))
    with pytest.raises(UserError, match=words):
        contract().check_data(dataset)
    with pytest.raises(UserError, match="predicts the labels A, B, C, but those of the data are B, A, C"):
        contract().check_data(SimpleNamespace(inputs=contract().inputs, label_names=("B", "A", "C")))


@pytest.mark.parametrize(
    ("here", "there", "clauses"),
    [
        ({}, {}, []),
        ({"coordinates": {"lead": ("i", "ii")}}, {}, []),  # spelt in another way
        ({"rate": 500.0}, {}, ["rate 500 Hz, there 100 Hz"]),
        ({"normalize_over": None}, {}, ["normalised not at all, there over records, time"]),
        ({"unit": "V"}, {}, ["unit V, there mV"]),
        ({"rate": None, "normalize_over": ("lead",)}, {"unit": "V"},
         ["unit mV, there V", "rate unknown, there 100 Hz", "normalised over records, lead, there over records, time"]),
    ],
)  # fmt: skip
def test_where_a_net_starts_from_trained_weights_each_difference_of_the_records_is_told(here, there, clauses):
    assert contract(**there).differences(contract(**here)) == clauses


def test_another_length_and_another_number_of_leads_are_told_and_their_names_are_not_compared():
    one = Contract((Input("ecg", ("lead", "time"), (1, 50), coordinates={"lead": ("V5",)}),), ("X", "Y"), TARGET)
    other = Contract(
        (Input("signal", ("lead", "time"), (2, 40), coordinates={"lead": LEADS}),), ("A", "B", "C"), TARGET
    )
    assert other.differences(one) == ["leads 1, there 2", "samples 50, there 40"]


def test_a_single_lead_that_is_another_one_is_told():
    one, other = (
        Contract((Input("signal", ("lead", "time"), (1, 40), coordinates={"lead": (name,)}),), ("A", "B"), TARGET)
        for name in ("II", "MLII")
    )
    assert other.differences(one) == ["leads II, there MLII"]


def test_an_input_that_the_source_did_not_have_is_told():
    table = Input("table", ("feature",), (2,), coordinates={"feature": ("age", "sex")})
    more = Contract((*contract().inputs, table), ("A", "B", "C"), TARGET)
    assert contract().differences(more) == ["the input table is new"]


def test_outputs_that_mean_others_are_told():
    said = contract().differences(Contract(contract().inputs, ("A", "C", "B"), TARGET))
    assert said[0].startswith("the outputs are A, C, B, there A, B, C")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"coordinates": {"lead": ("II", "I")}}, "the leads I, II, and the data have them in another order, II, I"),
        ({"coordinates": {"lead": ("I", "V1")}}, "the leads I, II, and the data have others, I, V1"),
        ({"unit": "V", "normalize_over": None}, "in mV, and the data are in V and not normalised"),
    ],
)
def test_records_that_weights_would_take_for_others_are_refused(change, words):
    with pytest.raises(UserError) as refused:
        contract().differences(contract(**change))
    assert words in str(refused.value)


def test_records_of_equal_names_are_compared_within_one_data_set_alone(tmp_path):
    folder = write_run(tmp_path / "run", contract())
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["dataset"] |= {"_target_": "ecgexp.datasets.MedMNIST", "name": "bloodmnist"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    kind = read_source(folder).dataset
    assert kind == dataset_kind(OmegaConf.create(config))
    for key, other in (("name", "pathmnist"), ("_target_", "ecgexp.datasets.PTBXL")):
        assert dataset_kind(OmegaConf.create({"dataset": {**config["dataset"], key: other}})) != kind

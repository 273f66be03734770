from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from ecgexp.datasets.base import Input
from ecgexp.targets import MultiClass, MultiLabel
from ecgexp.tracking.contract import Contract
from ecgexp.tracking.model import log_model
from ecgexp.tracking.store import open_store


class Net(nn.Module):
    """With BatchNorm and dropout, whose training mode must not reach the logged model."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(3, 4, 5),
            nn.BatchNorm1d(4),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )

    def forward(self, x):
        return self.layers(x)


@pytest.fixture(scope="module", params=[False, True], ids=["multilabel", "multiclass"])
def logged(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    store = open_store(SimpleNamespace(root=str(folder), uri=None, experiment="ecgexp", patience=0.0))
    run = store.client.create_run(store.experiment_id)
    torch.manual_seed(0)
    net = Net().train()
    net(torch.randn(8, 3, 50))  # moves the statistics away from their start
    example = np.random.default_rng(0).normal(size=(2, 3, 50)).astype(np.float32)
    target = MultiClass("AB") if request.param else MultiLabel("AB")
    contract = Contract((Input("signal", ("lead", "time"), (3, 50)),), ("A", "B"), {"_target_": "any"})
    uri = log_model(store, run.info.run_id, net, example, contract, target)
    probabilities = (lambda x: net.eval()(x).softmax(dim=1)) if request.param else (lambda x: net.eval()(x).sigmoid())
    return store, run.info.run_id, probabilities, uri


def test_it_gives_the_probabilities_of_the_net_for_any_number_of_records(logged):
    _, _, probabilities, uri = logged
    model = mlflow.pytorch.load_model(uri)
    for records in (1, 2, 7):
        signals = torch.randn(records, 3, 50)
        with torch.no_grad():
            torch.testing.assert_close(model(signals), probabilities(signals))


def test_it_answers_arrays_through_the_generic_interface(logged):
    _, _, probabilities, uri = logged
    signals = np.random.default_rng(1).normal(size=(3, 3, 50)).astype(np.float32)
    answered = mlflow.pyfunc.load_model(uri).predict(signals)
    with torch.no_grad():
        expected = probabilities(torch.from_numpy(signals)).numpy()
    np.testing.assert_allclose(answered, expected, atol=1e-6)


def test_it_belongs_to_the_run_and_its_experiment_and_lies_among_its_artifacts(logged):
    store, run_id, _, _ = logged
    (model,) = store.client.search_logged_models([store.experiment_id])
    assert model.source_run_id == run_id
    assert [output.model_id for output in store.client.get_run(run_id).outputs.model_outputs] == [model.model_id]
    place = Path(model.artifact_location.removeprefix("file://"))
    assert place.is_relative_to(store.root / "artifacts")
    assert not [path for path in place.rglob("*") if path.suffix in (".pkl", ".pickle", ".pth", ".pt")]
    packages = {line.split("==")[0] for line in (place / "requirements.txt").read_text().split()}
    assert packages == {"mlflow", "numpy", "torch"}


def test_the_signature_describes_inputs_and_outputs(logged):
    *_, uri = logged
    information = mlflow.models.get_model_info(uri)
    assert information.signature.inputs.inputs[0].shape == (-1, 3, 50)
    assert information.signature.outputs.inputs[0].shape == (-1, 2)
    assert information.saved_input_example_info is not None

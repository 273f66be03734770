"""A trained net as an MLflow model without pickle."""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import version
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray
from torch import nn

from ecgexp.errors import first_line
from ecgexp.targets import Target
from ecgexp.tracking.contract import Contract
from ecgexp.tracking.store import MLFLOW_RETRIES, Store, StoreAway, is_away, mlflow_settings

logger = logging.getLogger(__name__)

REQUIREMENTS = ("mlflow", "numpy", "torch")


def log_model(
    store: Store,
    run_id: str,
    network: nn.Module,
    example: NDArray[Any] | dict[str, NDArray[Any]],
    contract: Contract,
    target: Target,
) -> str | None:
    """Log a net that maps inputs to probabilities, as an exported graph (pt2).

    Parameters
    ----------
    store : Store
        Where the run is kept.
    run_id : str
        Run that the model belongs to.
    network : nn.Module
        Inputs of a batch to logits (batch, classes).
    example : array, or dict of str to array
        Inputs of two records or more that the graph is traced with, and kept beside it.
    contract : Contract
        What it takes and says; kept as metadata of the model, and bound to the graph.
    target : Target
        What is predicted.

    Returns
    -------
    str or None
        URI of the logged model; None, with a warning, where the net takes several inputs or torch cannot export it.
        Its weights are an artifact of the run all the same.
    """
    if isinstance(example, dict):  # what MLflow keeps is called with one array
        logger.warning("The net takes several inputs, which no MLflow model does: none is logged; its weights are.")
        return None
    contract.bind(network)
    probabilities = nn.Sequential(network, target.activation()).cpu().eval()
    with torch.no_grad():
        classes = probabilities(torch.from_numpy(example)).shape[1]
    signature = ModelSignature(
        Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]),
    )
    mlflow.set_tracking_uri(store.uri)
    try:
        with mlflow_settings(**MLFLOW_RETRIES), warnings.catch_warnings():
            # torch says so of each filter that lies in memory in another order than its axes, and saves it whole
            warnings.filterwarnings("ignore", "No complete tensor found in the group")
            # and so of the list in which a recurrent layer has its weights once more
            warnings.filterwarnings("ignore", "The tensor attributes .*_flat_weights")
            # and GitPython of a $ in the folder's name
            warnings.filterwarnings("ignore", "The use of environment variables in paths")
            mlflow.set_experiment(experiment_id=store.experiment_id)  # else the model is put among those of 'Default'
            model = Model.log(
                artifact_path=None,
                name="model",
                flavor=mlflow.pytorch,
                run_id=run_id,
                pytorch_model=probabilities,
                signature=signature,
                input_example=example,
                pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS],
                serialization_format="pt2",
                metadata={"ecgexp": contract.to_json()},
            )
    except Exception as error:  # torch.export raises many kinds for a net that it cannot trace
        if isinstance(error, MlflowException) and is_away(error):
            raise StoreAway(f"The MLflow store {store.uri} went away while the model was logged.") from error
        logger.warning("The net cannot be exported, so no model is logged; its weights are: %s", first_line(error))
        return None
    return model.model_uri

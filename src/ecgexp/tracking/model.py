"""Logs a trained net as an MLflow model without pickle."""

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
        Store of the run.
    run_id : str
        Id of the run to which the model belongs.
    network : nn.Module
        Maps the inputs of a batch to logits (batch, classes).
    example : array, or dict of str to array
        Inputs of two or more records, for the tracing of the graph; they are logged with it.
    contract : Contract
        Contract of the net; it becomes metadata of the model, and is bound to the graph.
    target : Target
        The target that the net predicts.

    Returns
    -------
    str or None
        URI of the logged model; None, with a warning, if the net takes several inputs or torch cannot export it. The
        weights are an artifact of the run in any case.
    """
    if isinstance(example, dict):  # MLflow calls a model with one array
        logger.warning("No MLflow model is logged, since the net takes several inputs. Its weights are logged.")
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
            # Torch warns of each filter whose memory has another order than its axes; it saves the filter correctly.
            warnings.filterwarnings("ignore", "No complete tensor found in the group")
            # Torch warns of the second list of weights in a recurrent layer.
            warnings.filterwarnings("ignore", "The tensor attributes .*_flat_weights")
            # GitPython warns of a $ in the name of the folder.
            warnings.filterwarnings("ignore", "The use of environment variables in paths")
            mlflow.set_experiment(
                experiment_id=store.experiment_id
            )  # else the model belongs to the experiment 'Default'
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
    except Exception as error:  # torch.export raises many kinds of errors for a net that it cannot trace
        if isinstance(error, MlflowException) and is_away(error):
            raise StoreAway(f"The MLflow store {store.uri} became unreachable while the model was logged.") from error
        logger.warning(
            "No MLflow model is logged, since the net cannot be exported. Its weights are logged. %s", first_line(error)
        )
        return None
    return model.model_uri

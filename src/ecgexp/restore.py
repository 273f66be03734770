"""A trained net from what its run left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from ecgexp.lit.module import Network
from ecgexp.tracking.store import Store
from ecgexp.trial import instantiate_group


def load_run(store: Store, run_id: str) -> tuple[DictConfig, Network]:
    """Configuration and net, with its kept weights, of a finished trial."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [store.client.download_artifacts(run_id, name, folder) for name in ("config.yaml", "weights.pt")]
        cfg = OmegaConf.load(paths[0])
        state = torch.load(Path(paths[1]), map_location="cpu", weights_only=True)
    assert isinstance(cfg, DictConfig)
    statistics = (state["mean"][:, 0].numpy(), state["std"][:, 0].numpy()) if "mean" in state else None
    network = Network(instantiate_group("model", cfg.model), statistics)
    network.load_state_dict(state)
    return cfg, network

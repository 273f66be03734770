"""A run from the weights of a Keras file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, open_dict
from torch import nn

from ecgexp import CONF
from ecgexp.commands.plan import plan
from ecgexp.config.build import build, example
from ecgexp.config.resolvers import register_resolvers
from ecgexp.config.schema import check, objectives
from ecgexp.errors import UserError
from ecgexp.foreign.hydra import argument_parser
from ecgexp.metrics.names import PARAMETERS
from ecgexp.models.keras_weights import Converted, load_keras
from ecgexp.saved import sha256
from ecgexp.targets import Target
from ecgexp.tracking import provenance
from ecgexp.tracking.names import EPOCHS, TRAIN_SECONDS, Kind, Tag
from ecgexp.tracking.run import Run
from ecgexp.tracking.runs import children, job_of, sweeps_named
from ecgexp.tracking.store import Store, open_store
from ecgexp.training.batches import tensors
from ecgexp.training.fit import Fitted, build_trainer, fit_labels, load
from ecgexp.training.network import Network, as_float
from ecgexp.trials.claim import Claimed, claim_trial
from ecgexp.trials.job import Job
from ecgexp.trials.record import record_weights

if TYPE_CHECKING:
    from torch import Tensor

KEY = "converted"
"""Of a run's configuration: file and SHA-256 of the weights, so that no training takes such a run for its own."""
# The target whose probabilities an activation of the last layer gives.
_TARGETS = {"softmax": "multiclass", "sigmoid": "multilabel"}


def run(arguments: Sequence[str]) -> None:
    """Do what ``python -m ecgexp.convert_keras`` asks; `arguments` are those of its command line."""
    register_resolvers()
    args = argument_parser().parse_args(list(arguments))
    named = [override for override in args.overrides if override.startswith("file=")]
    if len(named) != 1 or args.multirun:
        raise UserError("Exactly one file of weights is converted: write file=FILE once, and leave -m out.")
    file = Path(named[0].removeprefix("file=")).expanduser()
    args.overrides = [override for override in args.overrides if override not in named]
    asked = plan(CONF, args)
    cfg = asked.configurations[0]
    check(cfg)
    if not file.is_file():
        raise UserError(f"There is no file {file}: check the path.")
    if cfg.init.run is not None:
        raise UserError("The weights are those of file=FILE: leave init.run out.")
    fitted, pairs, said = _converted(cfg, file)
    digest = sha256(file)
    with open_dict(cfg):
        cfg[KEY] = {"file": file.name, "sha256": digest}
    store = open_store(cfg.tracking)
    parent = _sweep(store, cfg, cfg.sweep.name or f"keras-{digest[:8]}", f"weights of {file.name}")
    number = 1 + max((job_of(run, -1) for run in children(store, parent)), default=-1)
    job = Job(args.overrides, asked.choices, str(Path.cwd()), "", number, parent, parallel=False)
    with claim_trial(cfg, job, lambda run_id: None) as claimed:
        if claimed.run is not None:
            _record(claimed, claimed.run, fitted, said)
    width = max(len(theirs) for theirs, _ in pairs)
    print("\n".join(f"{theirs:{width}}  ->  {ours}" for theirs, ours in pairs))
    print("\n" + "\n".join(said))
    if claimed.run is None:
        print("These weights were converted before with the same settings: that run is reused.")
    found = store.client.get_run(claimed.run_id).data.metrics
    for objective in objectives(cfg):
        print(f"\n{objective} = {found[objective]:.4f}   (run {claimed.run_id})")
    print(f"Evaluate: python -m ecgexp.evaluate run={claimed.run_id} split=test{store.arguments()}")
    print(f"Report:   python -m ecgexp.report sweep={parent}{store.arguments()}")


def _converted(cfg: DictConfig, file: Path) -> tuple[Fitted, tuple[tuple[str, str], ...], list[str]]:
    """The net with the weights of the file, which layer went where, and what is assumed; nothing is recorded yet."""
    parts = build(cfg)
    parts.dataset.prepare()
    data = load(cfg, parts)
    network, as_taken = (Network(net, parts.dataset.normalization()) for net in (parts.net, nn.Identity()))
    record = as_float(tensors(example(parts.dataset, data.splits["val"], 1)))
    if isinstance(record, dict):
        raise UserError(f"The dataset gives {', '.join(record)}, but the weights of a file are those of one input.")
    found = load_keras(parts.net, file, record)
    target = parts.dataset.target
    _check_activations(file, found, str(cfg.model.get("activation", "relu")), target)
    fit_labels([parts.loss], data.splits["train"], target)
    trainer = build_trainer(cfg, [])
    # no epoch was trained here, and the weights are to be used
    fitted = Fitted(network, parts.loss, trainer, data, parts.dataset, target, [], False, best_epoch=0, pruned=False)
    return fitted, found.pairs, _assumed(cfg, found, as_taken(record))


def _sweep(store: Store, cfg: DictConfig, name: str, title: str) -> str:
    """The run of the sweep of this name, which is begun where there is none."""
    earlier = sweeps_named(store, name)
    if earlier:
        return str(earlier[-1].info.run_id)
    tags = {Tag.KIND: Kind.SWEEP, Tag.SWEEP: name, Tag.OBJECTIVE: objectives(cfg)[0]}
    with Run(store, title, {**tags, **provenance.git_state(Path.cwd())}) as begun:
        return begun.id


def _record(claimed: Claimed, run: Run, fitted: Fitted, said: Sequence[str]) -> None:
    """Record the weights as those of a training of no epochs, and what was assumed as its warning."""
    source = claimed.cfg[KEY]
    warning = [f"The weights of {source.file} were converted, not trained here.", *said]
    if fitted.dataset.warning:
        warning.insert(0, fitted.dataset.warning)
    run.set_tags({Tag.CONVERTED_FROM: f"{source.file} {source.sha256}", **provenance.warn(" ".join(warning))})
    parameters = sum(parameter.numel() for parameter in fitted.network.parameters())
    run.log_metrics({EPOCHS: 0, TRAIN_SECONDS: 0, PARAMETERS: parameters})
    record_weights(claimed, run, fitted)


def _check_activations(file: Path, converted: Converted, activation: str, target: Target) -> None:
    """Refuse a file that says other activations than the net and the target have."""
    if not converted.activations:
        return
    *hidden, last = converted.activations
    for other in dict.fromkeys(hidden):
        if other not in ("linear", activation):
            raise UserError(
                f"{file} has the activation {other}, but the net {activation}: set model.activation where the net has "
                "this key, or take another net."
            )
    if _TARGETS.get(last, target.kind) != target.kind or last not in ("linear", *_TARGETS):
        raise UserError(
            f"{file} ends with the activation {last}, which gives no probabilities of target={target.kind}: "
            f"take target={_TARGETS.get(last, 'multiclass or multilabel')}, or another file."
        )


def _assumed(cfg: DictConfig, converted: Converted, record: Tensor) -> list[str]:
    shape = " x ".join(map(str, record.shape[1:]))
    normalized = cfg.dataset.get("normalize", "none")
    how = "" if normalized == "none" else f", normalised ({normalized})"
    return [
        f"It is assumed that the Keras net took records as this dataset gives them: {shape}{how}, values from "
        f"{record.min():.3g} to {record.max():.3g} in the first record of the validation split.",
        "It is assumed that the net was trained on this training split and validated on this validation split, and "
        f"that its outputs are, in order, {', '.join(map(str, cfg.dataset.label_names))}.",
        *converted.remarks,
    ]

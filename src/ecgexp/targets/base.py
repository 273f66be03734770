"""The interface of a target, and the base class of a user's own kind of target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ecgexp.errors import UserError
from ecgexp.metrics.base import LOSS, Metric, Resampled
from ecgexp.metrics.names import escape_labels

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ecgexp.metrics.evaluation import Evaluation
    from ecgexp.targets.labels import Decisions


class Target(ABC):
    """What is predicted for a record: one column for each name.

    A net gives ``outputs`` logits for a record. `activation` turns them into probabilities, one for each name (or into
    values, if numbers are predicted). `decide` turns these into predicted labels. A subclass must define the class
    attributes without a default and the abstract methods.

    Parameters
    ----------
    label_names : sequence of str
        Names of the labels, in the order of the target columns.

    Attributes
    ----------
    kind : str
        Name of the kind, such as 'multilabel'; also the name of its file in ``conf/target``.
    records : str
        Description of records with such targets, such as 'multi-label records', for messages.
    metrics : tuple of Metric
        Metrics that `measure` computes, without the loss. A class attribute, so it is known before any data are read.
    main_metric : str
        The metric that trials are compared by, by default.
    shown : tuple of str
        Metrics of the kind that an evaluation prints, in order.
    table_metrics : tuple of str
        Metrics of the kind in the table of a sweep.
    default_loss : str
        Choice of the config group ``loss`` that fits.
    rule : str
        Description of the decision rule, such as 'threshold 0.5'.
    threshold : float or None
        A label is predicted if its probability is above this; None if the kind has no threshold.
    can_tune : bool
        Whether `tuned` finds thresholds on validation data.
    no_decision : str
        Text for a record without a predicted label.
    confusion_name : pair of str
        Name of the table of `confusion`: in file names, and in a title.
    group_note : str
        Column of a table of groups with the labels that a group's scores leave out.
    left_out_reason : str
        Why labels are left out of macro averages.
    extra : tuple of Metric
        The user's own metrics, from the config group ``metrics``.
    """

    kind: ClassVar[str]
    records: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    main_metric: ClassVar[str]
    shown: ClassVar[tuple[str, ...]] = ()
    table_metrics: ClassVar[tuple[str, ...]] = ()
    default_loss: ClassVar[str]
    rule: str
    threshold: float | None = None
    can_tune: ClassVar[bool] = False
    no_decision: str = "nothing"
    confusion_name: ClassVar[tuple[str, str]] = ("confusion", "Confusion matrix")
    group_note: ClassVar[str] = "left_out"
    left_out_reason: ClassVar[str] = "they do not occur"
    extra: tuple[Metric, ...] = ()

    def __init__(self, label_names: Sequence[str]) -> None:
        self.names = tuple(label_names)

    # --- properties known before any data are read

    @property
    def outputs(self) -> int:
        """Number of logits that a net gives for a record."""
        return len(self.names)

    def all_metrics(self) -> tuple[Metric, ...]:
        """The loss, the metrics of the kind and the user's own metrics."""
        return (LOSS, *self.metrics, *self.extra)

    def displayed(self) -> tuple[str, ...]:
        """Metrics that an evaluation prints, in order."""
        return (*self.shown, *(metric.name for metric in self.extra if not metric.per_output))

    def find_metric(self, name: str) -> Metric | None:
        """The metric that is logged as `name`, such as 'loss' or 'f1/NORM'; None if there is none.

        The label in the name of a metric per label is escaped by `escape_label`.
        """
        first, slash, label = name.partition("/")
        for metric in self.all_metrics():
            if metric.name == first and metric.per_output == bool(slash):
                return metric if not slash or label in escape_labels(self.names) else None
        return None

    def higher_is_better(self, name: str) -> bool:
        """Whether a higher value of the metric `name` is better.

        Raises
        ------
        UserError
            If there is no metric of this name.
        """
        metric = self.find_metric(name)
        if metric is None:
            known = ", ".join(one.name + "/<label>" * one.per_output for one in self.all_metrics())
            raise UserError(f"There is no metric {name!r} of {self.records}: choose one of {known}.")
        return metric.higher_is_better

    # --- from logits to decisions

    @abstractmethod
    def activation(self) -> nn.Module:
        """The module that turns logits (batch, outputs) into probabilities (batch, names); exported with the net."""

    @abstractmethod
    def decide(self, probabilities: Tensor) -> Tensor:
        """Predicted labels: bool, (records, names)."""

    def decided(self, probabilities: Tensor) -> list[str]:
        """Names that are predicted for one record, from its probabilities (names,)."""
        flags = self.decide(probabilities[None])[0].tolist()
        return [name for name, flag in zip(self.names, flags, strict=True) if flag]

    def problems(self, targets: NDArray[Any]) -> dict[int, str]:
        """Problems of targets, (records, names), by row, for example 'it has 2 labels, not one'."""
        return {}

    def check(self, targets: NDArray[Any], ids: NDArray[np.str_]) -> None:
        """Refuse targets that are not of this kind.

        Parameters
        ----------
        targets : array, (records, names)
        ids : str array, (records,)

        Raises
        ------
        UserError
            If a target is wrong; names the first such record.
        """
        for row, problem in self.problems(targets).items():
            raise UserError(f"Record {ids[row]} cannot be used: {problem}. Correct it or leave it out.")

    def prior(self, targets: Tensor) -> Tensor:
        """Logits, (outputs,), that predict the marginal distribution of `targets`, (records, names)."""
        import torch

        return torch.zeros(self.outputs)

    # --- metrics

    @abstractmethod
    def measure_own(self, probabilities: Tensor, targets: Tensor) -> Evaluation:
        """The `metrics` of a split, and the labels left out of macro averages.

        Parameters
        ----------
        probabilities, targets : tensors, (records, names)
        """

    def measure(self, probabilities: Tensor, targets: Tensor) -> Evaluation:
        """All metrics of a split except its loss: those of the kind and the user's own.

        Parameters
        ----------
        probabilities, targets : tensors, (records, names)

        Raises
        ------
        UserError
            If a user's own metric does not return a number.
        """
        from ecgexp.metrics.evaluation import Evaluation

        found = self.measure_own(probabilities, targets)
        if not self.extra:
            return found
        metrics = dict(found.metrics)
        for metric in self.extra:
            metrics |= _values(metric, probabilities, targets, self.names)
        return Evaluation(metrics, found.left_out)

    def for_evaluation(self) -> Target:
        """The target with the stricter rules of ``python -m ecgexp.evaluate``; by default, the target itself."""
        return self

    def tuned(self, probabilities: NDArray[Any], targets: NDArray[Any]) -> Target:
        """The target with thresholds tuned on validation data, both (records, names); only if `can_tune`."""
        raise NotImplementedError

    def measure_decisions(self, probabilities: Tensor, targets: Tensor) -> dict[str, float]:
        """Metrics that depend on thresholds; only if `can_tune`."""
        raise NotImplementedError

    # --- for the bootstrap

    def scorers(self) -> dict[str, Resampled]:
        """Functions that score resamples, by metric; by default those of `metrics` and `extra` that have one."""
        metrics = (*self.metrics, *self.extra)
        return {metric.name: metric.resampled for metric in metrics if metric.resampled is not None}

    def score_of(self, metric: str) -> str:
        """The name in `scorers` for a metric: the metric itself if it has one, else the main metric."""
        return metric if metric in self.scorers() else self.main_metric

    def required(self, targets: NDArray[Any]) -> tuple[NDArray[np.bool_], Sequence[str]]:
        """Columns that must have true and false in each resample, so that all resamples score the same labels.

        Parameters
        ----------
        targets : array, (records, names)

        Returns
        -------
        bool array, (records, columns)
            In each column, a resample must have at least one true and one false record.
        sequence of str, (columns,)
            Names of the columns, for messages.
        """
        import numpy as np

        return np.zeros((len(targets), 0), dtype=bool), ()

    # --- tables

    def confusion(self, probabilities: Tensor, targets: Tensor) -> pd.DataFrame | None:
        """Counts by true (rows) and predicted labels (columns); None if the kind has no such table."""
        return None

    def label_table(self, probabilities: Tensor, targets: Tensor) -> pd.DataFrame | None:
        """Scores with one row per label, including ``brier`` and ``auroc``; None if the kind has no such table."""
        return None

    def decisions(self, probabilities: Tensor, targets: Tensor) -> Decisions | None:
        """Right and wrong decisions, from tensors (records, names); None if the kind has no labels."""
        return None

    def group_scores(self, probabilities: Tensor, targets: Tensor) -> tuple[dict[str, float], Sequence[str]]:
        """Scores of a group of records, and the labels that they leave out.

        Every group has the same scores; an undefined score is NaN.
        """
        import math

        return {self.main_metric: self.measure(probabilities, targets).metrics.get(self.main_metric, math.nan)}, ()

    def absent(self, targets: NDArray[Any]) -> list[str]:
        """Labels that no record has, so that macro averages leave them out."""
        return []


def _values(metric: Metric, probabilities: Tensor, targets: Tensor, names: Sequence[str]) -> Mapping[str, float]:
    assert metric.compute is not None
    found = metric.compute(probabilities, targets)
    try:
        if not metric.per_output:
            return {metric.name: float(found)}
        labels = [f"{metric.name}/{label}" for label in escape_labels(names)]
        return {label: float(value) for label, value in zip(labels, found, strict=True)}
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"{len(names)} numbers" if metric.per_output else "a number"
        raise UserError(f"Config key 'metrics.{metric.name}' must return {what}, not {found!r}.") from error

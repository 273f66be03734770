"""What a target is to the rest of the package; also the base class of a user's own kind."""

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


class Target(ABC):
    """What is predicted of a record: one column for each of its names.

    A net gives ``outputs`` logits for a record; `activation` makes of them the probabilities (of a number that is
    predicted: its value), one for each name; `decide` says what is predicted. A subclass has to say the attributes
    and the abstract methods below; everything else has a default.

    Parameters
    ----------
    label_names : sequence of str
        In the order of the target columns.

    Attributes
    ----------
    kind : str
        What the kind is called, such as 'multilabel'; also its file in ``conf/target``.
    records : str
        Records with such targets in words, such as 'multi-label records'.
    metrics : tuple of Metric
        Those that `measure` computes beside the loss; a class attribute, so that it is known before any data.
    main_metric : str
        The metric that trials are compared by unless told otherwise.
    shown : tuple of str
        Metrics of the kind that an evaluation prints, in order.
    table_metrics : tuple of str
        Those of them that the table of a sweep has.
    default_loss : str
        Choice of the config group ``loss`` that fits.
    rule : str
        How it is decided, in words.
    threshold : float or None
        A label is predicted where its probability is above this; None where no threshold decides.
    can_tune : bool
        Whether `tuned` finds thresholds on validation data.
    no_decision : str
        What is said of a record for which nothing is predicted.
    confusion_name : pair of str
        What the table of `confusion` is called: in the names of files, and in a title.
    group_note : str
        Column of a table of groups that says which labels the scores of a group are without.
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

    # --- what there is to know before any data

    @property
    def outputs(self) -> int:
        """Logits that a net has to give for a record."""
        return len(self.names)

    def all_metrics(self) -> tuple[Metric, ...]:
        """The loss, the metrics of the kind and the user's own."""
        return (LOSS, *self.metrics, *self.extra)

    def displayed(self) -> tuple[str, ...]:
        """Metrics that an evaluation prints, in order."""
        return (*self.shown, *(metric.name for metric in self.extra if not metric.per_output))

    def find_metric(self, name: str) -> Metric | None:
        """The metric that is logged under `name`, such as 'loss' or 'f1/NORM'; None where there is none.

        The label of a metric per label stands there as `escape_label` writes it.
        """
        first, slash, label = name.partition("/")
        for metric in self.all_metrics():
            if metric.name == first and metric.per_output == bool(slash):
                return metric if not slash or label in escape_labels(self.names) else None
        return None

    def higher_is_better(self, name: str) -> bool:
        """Whether a larger value of the metric `name` is the better one.

        Raises
        ------
        UserError
            Where there is no metric of this name.
        """
        metric = self.find_metric(name)
        if metric is None:
            known = ", ".join(one.name + "/<label>" * one.per_output for one in self.all_metrics())
            raise UserError(f"There is no metric {name!r} of {self.records}: choose one of {known}.")
        return metric.higher_is_better

    # --- from logits to decisions

    @abstractmethod
    def activation(self) -> nn.Module:
        """Logits (batch, outputs) to probabilities (batch, names), as a module that is exported with the net."""

    @abstractmethod
    def decide(self, probabilities: Tensor) -> Tensor:
        """What is predicted: bool, (records, names)."""

    def decided(self, probabilities: Tensor) -> list[str]:
        """Names that are predicted of one record, from its probabilities (names,)."""
        flags = self.decide(probabilities[None])[0].tolist()
        return [name for name, flag in zip(self.names, flags, strict=True) if flag]

    def problems(self, targets: NDArray[Any]) -> dict[int, str]:
        """What is wrong with the targets of which records, (records, names): 'it has 2 labels, not one', say."""
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
            With the first record whose target is wrong.
        """
        for row, problem in self.problems(targets).items():
            raise UserError(f"Record {ids[row]} cannot be used: {problem}. Correct it or leave it out.")

    def prior(self, targets: Tensor) -> Tensor:
        """Logits, (outputs,), that give every record the marginal distribution of `targets`, (records, names)."""
        import torch

        return torch.zeros(self.outputs)

    # --- how good it is

    @abstractmethod
    def measure_own(self, probabilities: Tensor, targets: Tensor) -> Evaluation:
        """`metrics` of a split, and the labels that macro averages are without.

        Parameters
        ----------
        probabilities, targets : tensors, (records, names)
        """

    def measure(self, probabilities: Tensor, targets: Tensor) -> Evaluation:
        """All metrics of a split but its loss: those of the kind and the user's own.

        Parameters
        ----------
        probabilities, targets : tensors, (records, names)

        Raises
        ------
        UserError
            Where a metric of the user's own gives no number.
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
        """The target by the stricter rules of ``python -m ecgexp.evaluate``; by default it has none."""
        return self

    def tuned(self, probabilities: NDArray[Any], targets: NDArray[Any]) -> Target:
        """The target with thresholds tuned on validation data, both (records, names); only where `can_tune`."""
        raise NotImplementedError

    def measure_decisions(self, probabilities: Tensor, targets: Tensor) -> dict[str, float]:
        """Metrics that depend on the thresholds of a target that was `tuned`."""
        raise NotImplementedError

    # --- what the bootstrap needs

    def scorers(self) -> dict[str, Resampled]:
        """Metrics that have an interval, by name: by default those of `metrics` and `extra` that say how."""
        metrics = (*self.metrics, *self.extra)
        return {metric.name: metric.resampled for metric in metrics if metric.resampled is not None}

    def score_of(self, metric: str) -> str:
        """The one of `scorers` that stands for a metric: itself, or that of the main metric."""
        return metric if metric in self.scorers() else self.main_metric

    def required(self, targets: NDArray[Any]) -> tuple[NDArray[np.bool_], Sequence[str]]:
        """What each resample of the records must hold, so that its scores are those of the same labels.

        Parameters
        ----------
        targets : array, (records, names)

        Returns
        -------
        bool array, (records, columns)
            Of each column a resample must hold a record where it is true and one where it is false.
        sequence of str, (columns,)
            Names of the columns, for a message.
        """
        import numpy as np

        return np.zeros((len(targets), 0), dtype=bool), ()

    # --- what is shown

    def confusion(self, probabilities: Tensor, targets: Tensor) -> pd.DataFrame | None:
        """Counts by true labels (rows) and predicted ones (columns); None where there is no such table."""
        return None

    def label_table(self, probabilities: Tensor, targets: Tensor) -> pd.DataFrame | None:
        """One row per label with its scores, ``brier`` and ``auroc`` among them; None where there is no such table."""
        return None

    def group_scores(self, probabilities: Tensor, targets: Tensor) -> tuple[dict[str, float], Sequence[str]]:
        """Scores of a group of records, and the labels that they are without.

        Every group has the same scores; one that is not defined is NaN.
        """
        import math

        return {self.main_metric: self.measure(probabilities, targets).metrics.get(self.main_metric, math.nan)}, ()

    def absent(self, targets: NDArray[Any]) -> list[str]:
        """Labels that no record has, and that macro averages therefore are without."""
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
        raise UserError(f"Config key 'metrics.{metric.name}' has to give {what}, not {found!r}.") from error

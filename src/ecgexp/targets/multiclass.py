"""Records with exactly one label each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any

from ecgexp.metrics.base import Metric, Resampled
from ecgexp.targets.base import Target

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ecgexp.metrics.evaluation import Evaluation
    from ecgexp.targets.labels import Decisions

SMALLEST_CLASS = 20
"""A class enters the macro averages of an evaluation if it has at least so many records."""


class MultiClass(Target):
    """Each record has exactly one label; the most probable label is predicted.

    Targets have a column of 0 and 1 for each label.

    Parameters
    ----------
    label_names : sequence of str
        The classes, in the order of the target columns.
    """

    kind = "multiclass"
    records = "records with exactly one label each"
    metrics = (
        *map(Metric, ("accuracy", "balanced_accuracy", "auroc_macro", "ap_macro")),
        *(Metric(f"{score}_{average}") for score in ("precision", "recall", "f1") for average in ("macro", "weighted")),
        *(Metric(name, per_output=True) for name in ("precision", "recall", "f1")),
    )
    main_metric = "f1_macro"
    shown = (
        *("loss", "f1_macro", "f1_weighted", "precision_macro", "recall_macro", "accuracy"),
        *("auroc_macro", "ap_macro", "brier"),
    )
    table_metrics = ("f1_macro", "recall_macro", "accuracy", "auroc_macro", "loss")
    default_loss = "cross_entropy"
    rule = "the most probable class"
    left_out_reason = f"fewer than {SMALLEST_CLASS} records"

    def __init__(self, label_names: Sequence[str]) -> None:
        super().__init__(label_names)
        self._smallest_class = 1

    def activation(self) -> nn.Module:
        """Softmax."""
        from torch import nn

        return nn.Softmax(dim=1)

    def decide(self, probabilities: Tensor) -> Tensor:
        """The most probable label, or none if a probability is NaN: bool, (records, labels)."""
        import torch

        from ecgexp.metrics.multiclass import predicted_classes

        return predicted_classes(probabilities)[:, None] == torch.arange(len(self.names), device=probabilities.device)

    def problems(self, targets: NDArray[Any]) -> dict[int, str]:
        """Records with no label or with several labels."""
        wrong = (targets.sum(axis=1, dtype=int) != 1).nonzero()[0].tolist()
        return {row: f"it has {self._named(targets[row])}, but must have exactly one label" for row in wrong}

    def _named(self, row: NDArray[Any]) -> str:
        return " and ".join(compress(self.names, row.tolist())) or "no label"

    def prior(self, targets: Tensor) -> Tensor:
        """Logarithms of the prevalences, (labels,); finite also for a label without records."""
        return targets.double().mean(dim=0).clamp(min=1e-6).log()

    def measure_own(self, probabilities: Tensor, targets: Tensor) -> Evaluation:
        """See `ecgexp.metrics.multiclass_metrics`."""
        from ecgexp.metrics.multiclass import multiclass_metrics

        return multiclass_metrics(probabilities, targets, self.names, self._smallest_class)

    def for_evaluation(self) -> MultiClass:
        """The target whose macro averages leave out classes with fewer than `SMALLEST_CLASS` records."""
        strict = MultiClass(self.names)
        strict._smallest_class, strict.extra = SMALLEST_CLASS, self.extra
        return strict

    def scorers(self) -> dict[str, Resampled]:
        """Macro F1, macro recall, AUROC, accuracy and the user's own metrics."""
        from ecgexp.metrics import weighted

        own = {name: getattr(weighted, name) for name in ("f1_macro", "recall_macro", "auroc_macro")}
        size = self._smallest_class
        averages = {name: partial(score, smallest_class=size) for name, score in own.items()}
        return {**averages, "accuracy": weighted.accuracy, **super().scorers()}

    def required(self, targets: NDArray[Any]) -> tuple[NDArray[np.bool_], Sequence[str]]:
        """Each label that enters the macro averages."""
        import numpy as np

        true = np.asarray(targets) == 1
        counted = true.sum(axis=0) >= max(self._smallest_class, 1)
        return true[:, counted], list(compress(self.names, counted.tolist()))

    def score_of(self, metric: str) -> str:
        """See `Target.score_of`; 'balanced_accuracy' is another name of 'recall_macro'."""
        return super().score_of("recall_macro" if metric == "balanced_accuracy" else metric)

    def confusion(self, probabilities: Tensor, targets: Tensor) -> pd.DataFrame:
        """The `confusion_matrix`, with column NPL (no predicted label) only if some record has no prediction."""
        import pandas as pd

        from ecgexp.metrics.multiclass import confusion_matrix

        matrix = confusion_matrix(probabilities, targets).numpy()
        table = pd.DataFrame(matrix, index=list(self.names), columns=[*self.names, "NPL"])
        return table if table["NPL"].any() else table.drop(columns="NPL")

    def label_table(self, probabilities: Tensor, targets: Tensor) -> pd.DataFrame:
        """One row per label: see `ecgexp.targets.labels.label_table`."""
        from ecgexp.targets.labels import label_table

        return label_table(probabilities, targets, self.names, self.decide(probabilities))

    def decisions(self, probabilities: Tensor, targets: Tensor) -> Decisions:
        """See `ecgexp.targets.labels.one_label_decisions`."""
        from ecgexp.targets.labels import one_label_decisions

        predicted = self.decide(probabilities).numpy()
        return one_label_decisions(probabilities.numpy(), targets.numpy(), predicted, self.names)

    def group_scores(self, probabilities: Tensor, targets: Tensor) -> tuple[dict[str, float], Sequence[str]]:
        """Accuracy, macro F1, AUROC and Brier score, and the classes left out of macro averages."""
        from ecgexp.targets.labels import brier

        metrics, left_out = self.measure_own(probabilities, targets)
        scores = {name: metrics.get(name, math.nan) for name in ("accuracy", "f1_macro", "auroc_macro")}
        return {**scores, "brier": brier(probabilities, targets)}, left_out.get("f1_macro", ())

    def absent(self, targets: NDArray[Any]) -> list[str]:
        """Labels that no record has, so that macro averages leave them out."""
        return list(compress(self.names, (targets.sum(axis=0) == 0).tolist()))

"""Records with any number of labels, including none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ecgexp.metrics.base import Metric, Resampled
from ecgexp.targets.base import Target

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor, nn

    from ecgexp.metrics.evaluation import Evaluation
    from ecgexp.metrics.weighted import Weighted
    from ecgexp.targets.labels import Decisions


class MultiLabel(Target):
    """Each record has any number of labels; a label is predicted if its probability is above a threshold.

    Parameters
    ----------
    label_names : sequence of str
        The labels, in the order of the target columns. The multi-label confusion matrix depends on this order.
    threshold : float
        Threshold for all labels, from 0 to 1.
    """

    kind = "multilabel"
    records = "multi-label records"
    metrics = (
        *map(Metric, ("subset_accuracy", "binary_accuracy", "keras_accuracy")),
        Metric("auroc_macro"),
        Metric("ap_macro"),
        *(
            Metric(f"mlcm_{score}_{average}")
            for score in ("precision", "recall", "f1")
            for average in ("micro", "macro", "weighted")
        ),
        *(Metric(name, per_output=True) for name in ("f1", "mlcm_f1")),
    )
    main_metric = "mlcm_f1_macro"
    shown = (
        *("loss", "mlcm_f1_macro", "mlcm_f1_micro", "mlcm_precision_macro", "mlcm_recall_macro"),
        *("auroc_macro", "ap_macro", "subset_accuracy", "binary_accuracy", "brier"),
    )
    table_metrics = ("mlcm_f1_macro", "mlcm_f1_micro", "auroc_macro", "loss")
    default_loss = "bce"
    can_tune = True
    confusion_name = ("mlcm", "MLCM")
    group_note = "absent"
    left_out_reason = "all records or none have the label"

    def __init__(self, label_names: Sequence[str], threshold: Annotated[float, Field(ge=0, le=1)] = 0.5) -> None:
        super().__init__(label_names)
        self.threshold: float = threshold
        self._thresholds: NDArray[np.float64] | None = None  # one for each label, if they were tuned

    @property
    def rule(self) -> str:  # type: ignore[override]
        """Description of the decision rule."""
        return f"threshold {self.threshold:g}"

    @property
    def no_decision(self) -> str:  # type: ignore[override]
        """Text for a record without a predicted label."""
        return f"no label above {self.threshold:g}"

    def activation(self) -> nn.Module:
        """Sigmoid."""
        from torch import nn

        return nn.Sigmoid()

    def decide(self, probabilities: Tensor) -> Tensor:
        """Labels whose probability is above the threshold: bool, (records, labels)."""
        import torch

        thresholds = self.threshold if self._thresholds is None else torch.from_numpy(self._thresholds)
        return probabilities.double() > thresholds

    def prior(self, targets: Tensor) -> Tensor:
        """Logits of the prevalences, (labels,); finite also for a label that all records have, or none."""
        import torch

        return torch.logit(targets.double().mean(dim=0), eps=1e-6)

    def measure_own(self, probabilities: Tensor, targets: Tensor) -> Evaluation:
        """See `ecgexp.metrics.classification_metrics`."""
        from ecgexp.metrics.evaluation import classification_metrics

        return classification_metrics(probabilities, targets, self.names, self.threshold)

    def tuned(self, probabilities: NDArray[Any], targets: NDArray[Any]) -> MultiLabel:
        """The target with, for each label, the threshold of its highest F1 on validation data, (records, labels)."""
        from ecgexp.targets.thresholds import tuned_thresholds

        return self.with_thresholds(tuned_thresholds(probabilities, targets, self.threshold))

    def with_thresholds(self, thresholds: ArrayLike) -> MultiLabel:
        """The target with a separate threshold for each label, (labels,), which `decide` uses."""
        import numpy as np

        found = MultiLabel(self.names, self.threshold)
        found._thresholds, found.extra = np.asarray(thresholds, dtype=np.float64), self.extra
        return found

    def measure_decisions(self, probabilities: Tensor, targets: Tensor) -> dict[str, float]:
        """Metrics that depend on the thresholds."""
        from ecgexp.metrics.evaluation import classification_metrics

        metrics = classification_metrics(self.decide(probabilities).float(), targets, self.names).metrics
        return {name: value for name, value in metrics.items() if not name.startswith(("auroc", "ap_", "keras"))}

    def scorers(self) -> dict[str, Resampled]:
        """MLCM macro F1, AUROC and the user's own metrics."""
        from ecgexp.metrics import weighted

        return {"mlcm_f1_macro": self._resampled_f1, "auroc_macro": weighted.auroc_macro, **super().scorers()}

    def _resampled_f1(self, probabilities: NDArray[Any], targets: NDArray[Any]) -> Weighted:
        import torch

        from ecgexp.metrics import weighted

        if self._thresholds is None:
            return weighted.mlcm_f1_macro(probabilities, targets, self.threshold)
        return weighted.mlcm_f1_macro(self.decide(torch.as_tensor(probabilities)).float().numpy(), targets)

    def required(self, targets: NDArray[Any]) -> tuple[NDArray[np.bool_], Sequence[str]]:
        """Each label, and 'no label', which the MLCM's macro F1 counts like a label."""
        import numpy as np

        true = np.asarray(targets) == 1
        return np.column_stack([true, ~true.any(axis=1)]), [*self.names, "no label"]

    def confusion(self, probabilities: Tensor, targets: Tensor) -> pd.DataFrame:
        """The `mlcm`, with row NTL (no true label) and column NPL (no predicted label)."""
        import pandas as pd

        from ecgexp.metrics.confusion import mlcm

        matrix = mlcm(probabilities, targets.int(), len(self.names), self.threshold).numpy()
        return pd.DataFrame(matrix, index=[*self.names, "NTL"], columns=[*self.names, "NPL"])

    def label_table(self, probabilities: Tensor, targets: Tensor) -> pd.DataFrame:
        """One row per label: see `ecgexp.targets.labels.label_table`; also ``threshold`` and ``mlcm_f1``."""
        from ecgexp.metrics.confusion import mlcm
        from ecgexp.metrics.report import mlcm_report
        from ecgexp.targets.labels import label_table

        predicted = self.decide(probabilities)
        table = label_table(probabilities, targets, self.names, predicted)
        table.insert(list(table.columns).index("precision"), "threshold", self._each_threshold())
        table["mlcm_f1"] = mlcm_report(mlcm(predicted, targets, len(self.names))).f1[:-1]
        return table

    def decisions(self, probabilities: Tensor, targets: Tensor) -> Decisions:
        """See `ecgexp.targets.labels.each_label_decisions`."""
        from ecgexp.targets.labels import each_label_decisions

        predicted = self.decide(probabilities).numpy()
        given = probabilities.numpy(), targets.numpy()
        return each_label_decisions(*given, predicted, self.names, self._each_threshold())

    def _each_threshold(self) -> NDArray[np.float64]:
        import numpy as np

        return np.full(len(self.names), self.threshold) if self._thresholds is None else self._thresholds

    def group_scores(self, probabilities: Tensor, targets: Tensor) -> tuple[dict[str, float], Sequence[str]]:
        """MLCM F1, AUROC and Brier score, and the absent labels.

        Macro F1 is NaN if a label is absent, because this label would count as 0.
        """
        from ecgexp.targets.labels import brier

        metrics = self.measure_own(probabilities, targets).metrics
        absent = list(compress(self.names, (targets != 1).all(dim=0)))
        return {
            "mlcm_f1_micro": metrics["mlcm_f1_micro"],
            "mlcm_f1_macro": math.nan if absent else metrics["mlcm_f1_macro"],
            "auroc_macro": metrics.get("auroc_macro", math.nan),
            "brier": brier(probabilities, targets),
        }, absent

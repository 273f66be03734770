"""Metrics of predictions: confusion matrices and the scores of a split."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ecgexp.metrics.base import Metric
from ecgexp.metrics.names import escape_label

if TYPE_CHECKING:
    from ecgexp.metrics.confusion import MLCM, Rule, mlcm
    from ecgexp.metrics.evaluation import Evaluation, classification_metrics
    from ecgexp.metrics.multiclass import confusion_matrix, multiclass_metrics, predicted_classes
    from ecgexp.metrics.report import MLCMReport, mlcm_report

__all__ = [
    "MLCM",
    "Evaluation",
    "MLCMReport",
    "Metric",
    "Rule",
    "classification_metrics",
    "confusion_matrix",
    "escape_label",
    "mlcm",
    "mlcm_report",
    "multiclass_metrics",
    "predicted_classes",
]

# torch takes seconds to import, and targets need only the names of metrics: other modules load at first use.
_MODULES = {
    "MLCM": "confusion",
    "Rule": "confusion",
    "mlcm": "confusion",
    "Evaluation": "evaluation",
    "classification_metrics": "evaluation",
    "MLCMReport": "report",
    "mlcm_report": "report",
    "confusion_matrix": "multiclass",
    "multiclass_metrics": "multiclass",
    "predicted_classes": "multiclass",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

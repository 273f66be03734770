"""Private API of MLflow, checked with 3.17.2 (pyproject: <3.18)."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


def create_tables(uri: str, artifacts: str) -> None:
    """Create the tables of a tracking database at `uri`; a client creates them only in the database that it uses."""
    SqlAlchemyStore(uri, artifacts).engine.dispose()


class Monitor(SystemMetricsMonitor):
    """MLflow's monitor of the machine, for use with our own loop: MLflow's loop ends when the store is unreachable.

    A subclass overrides `monitor`, which runs in a thread, and sends the metrics itself.
    """

    def measure(self) -> tuple[dict[str, float], int] | None:
        """Wait for the next sample; return its metrics by name and their step, or None when it must stop."""
        if self._shutdown_event.wait(self.sampling_interval):
            return None
        self.collect_metrics()
        metrics: Mapping[str, float] = self.aggregate_metrics()
        step = self._logging_step
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
        return {f"{self._metrics_prefix}{name}": value for name, value in metrics.items()}, step

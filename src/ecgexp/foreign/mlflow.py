"""Of MLflow, checked with 3.17.2 (pyproject: <3.18)."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


def create_tables(uri: str, artifacts: str) -> None:
    """Make the tables of a tracking database; a client would make them in place, where a kill leaves half of them."""
    SqlAlchemyStore(uri, artifacts).engine.dispose()


class Monitor(SystemMetricsMonitor):
    """MLflow's monitor of the machine, to be given another loop; its own ends for good where the store is away.

    A subclass overrides `monitor`, which a thread runs, and sends what it measures itself.
    """

    def measure(self) -> tuple[dict[str, float], int] | None:
        """Wait for the next sample: its metrics by name and their step; None where it is to stop."""
        if self._shutdown_event.wait(self.sampling_interval):
            return None
        self.collect_metrics()
        metrics: Mapping[str, float] = self.aggregate_metrics()
        step = self._logging_step
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()
        return {f"{self._metrics_prefix}{name}": value for name, value in metrics.items()}, step

"""A Lightning callback."""

import pytorch_lightning as pl


class WeightNorm(pl.Callback):
    """Logs the norm of all weights after each epoch."""

    def __init__(self, name: str = "weight_norm") -> None:
        self.name = name

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log it as a metric of the run."""
        squares = [float(weights.detach().square().sum()) for weights in pl_module.parameters()]
        pl_module.log(self.name, sum(squares) ** 0.5)

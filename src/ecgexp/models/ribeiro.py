"""The net of Ribeiro et al. 2020, as published and as adapted to 10 s at 100 Hz."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ecgexp.models.layers import (
    Count,
    Initializer,
    NormReLU,
    Rate,
    SameConv,
    SameMaxPool,
    ceil_div,
    check_signals,
    flatten,
    he_normal_,
    initialize,
)


class _RibeiroNet(nn.Module):
    """Common parts of the two nets, which differ in `bias` and `projection`."""

    def __init__(
        self,
        leads: int,
        samples: int,
        outputs: int,
        width: int,
        filters: Sequence[int],
        kernel: int,
        downsample: int,
        dropout: float,
        bias: bool,
        projection: Initializer,
    ) -> None:
        super().__init__()
        self.leads, self.samples = leads, samples
        self.stem = nn.Sequential(SameConv(leads, width, kernel, bias=bias), NormReLU(width))
        self.blocks = nn.ModuleList()
        inputs, steps = width, samples
        for wider in filters:
            self.blocks.append(_Block(inputs, wider, kernel, downsample, dropout, bias, projection))
            inputs, steps = wider, ceil_div(steps, downsample)
        self.head = initialize(nn.Linear(steps * inputs, outputs), he_normal_)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to logits (batch, outputs)."""
        check_signals(x, self.leads, self.samples)
        main = skip = self.stem(x)
        for block in self.blocks:
            main, skip = block(main, skip)
        return self.head(flatten(main))


class _Block(nn.Module):
    """Two convolutions added to the pooled and projected skip path; the sum is the next skip path."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        downsample: int,
        dropout: float,
        bias: bool,
        projection: Initializer,
    ) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(
            SameMaxPool(downsample), SameConv(inputs, outputs, kernel=1, bias=bias, weight=projection)
        )
        self.main = nn.Sequential(
            SameConv(inputs, outputs, kernel, bias=bias),
            NormReLU(outputs, dropout),
            SameConv(outputs, outputs, kernel, downsample, bias=bias),
        )
        self.activation = NormReLU(outputs, dropout)

    def forward(self, main: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        total = self.main(main) + self.shortcut(skip)
        return self.activation(total), total


class Ribeiro(_RibeiroNet):
    """Residual net of 10 layers, adapted from Ribeiro et al. 2020.

    (batch, leads, samples) to logits (batch, outputs). A convolution of `width` filters with batch
    normalisation and ReLU; `depth` residual blocks of two convolutions with 2, 3, 4, ... times `width`
    filters, each of which divides the length by `downsample`; a dense layer on the flattened features.

    Deviations of the adaptation from `RibeiroOriginal`: 192 filters in the second block instead of 196,
    biases in the convolutions, and Glorot's initial weights in those of the skip path.

    Parameters
    ----------
    leads, samples : int
        Shape of one record.
    outputs : int
        Logits of a record.
    width : int
        Filters of the first convolution; block 1, 2, ... has 2, 3, ... times as many.
    depth : int
        Residual blocks.
    kernel : int
        Length of the filters, in samples.
    downsample : int
        Factor by which each block shortens the signal.
    dropout : float
        Share of activations dropped, twice in each block.

    Notes
    -----
    At the defaults 6,349,381 trainable parameters and 3,712 batch statistics. Padding, pooling, batch
    normalisation and initial weights are Keras' (see `ecgexp.models.layers`).

    References
    ----------
    Leandro et al. 2023 for the adaptation; Nature Communications 11:1760 for the original.

    Examples
    --------
    >>> import torch
    >>> net = Ribeiro(leads=2, samples=256)
    >>> net(torch.zeros(3, 2, 256)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        leads: Count = 12,
        samples: Count = 1000,
        outputs: Count = 5,
        width: Count = 64,
        depth: Count = 4,
        kernel: Count = 16,
        downsample: Count = 4,
        dropout: Rate = 0.2,
    ) -> None:
        super().__init__(
            leads,
            samples,
            outputs,
            width,
            filters=[width * (2 + block) for block in range(depth)],
            kernel=kernel,
            downsample=downsample,
            dropout=dropout,
            bias=True,
            projection=nn.init.xavier_uniform_,
        )


class RibeiroOriginal(_RibeiroNet):
    """Residual net of 10 layers of Ribeiro et al. 2020, as published.

    (batch, leads, samples) to logits (batch, outputs). A convolution of 64 filters with batch normalisation
    and ReLU; four residual blocks of two convolutions with 128, 196, 256 and 320 filters, each of which
    divides the length by 4 (4096 to 1024, 256, 64, 16); a dense layer on the flattened features.

    Deviations from the paper: logits instead of sigmoids, and any shape of record.

    Parameters
    ----------
    leads, samples : int
        Shape of one record; in the paper 12 leads of 4096 samples at 400 Hz.
    outputs : int
        Logits of a record; 6 abnormalities in the paper.
    kernel : int
        Length of the filters, in samples: 16 in the paper and in the net that its authors' code builds; 17
        is that code's default for a single block and is found in later nets of the group.

    References
    ----------
    Ribeiro et al. 2020, Nature Communications 11:1760, doi 10.1038/s41467-020-15432-4;
    https://github.com/antonior92/automatic-ecg-diagnosis for biases and initial weights.

    Examples
    --------
    >>> import torch
    >>> net = RibeiroOriginal(leads=2, samples=256)
    >>> net(torch.zeros(3, 2, 256)).shape
    torch.Size([3, 6])
    """

    def __init__(self, leads: Count = 12, samples: Count = 4096, outputs: Count = 6, kernel: Count = 16) -> None:
        super().__init__(
            leads,
            samples,
            outputs,
            width=64,
            filters=[128, 196, 256, 320],
            kernel=kernel,
            downsample=4,
            dropout=0.2,
            bias=False,
            projection=he_normal_,
        )

"""The adapted nets in plain PyTorch: Conv1d, BatchNorm1d and Dropout, without any optimization for speed."""

from __future__ import annotations

from torch import Tensor, nn

from ecgexp.models import layers


class Conv(nn.Module):
    """Padding, then a convolution with the filters of one of our layers."""

    def __init__(self, ours: layers.SameConv) -> None:
        super().__init__()
        self.ours_padding = ours.padding_of
        self.conv = nn.Conv1d(ours.in_channels, ours.out_channels, ours.kernel_size[0], ours.stride[0])
        self.conv.load_state_dict(ours.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x, self.ours_padding(x.shape[-1])))


def plain(net: nn.Module) -> nn.Module:
    """The same net. Its layers are replaced in place by PyTorch's own."""
    for name, child in net.named_children():
        match child:
            case layers.DecimatedConv():  # as in the papers' code: compute all outputs, then keep every second one
                full = layers.SameConv(child.in_channels, child.out_channels, child.kernel_size[0])
                full.load_state_dict(child.state_dict())
                setattr(net, name, nn.Sequential(Conv(full), nn.MaxPool1d(1, child.stride[0])))
            case layers.SameConv():
                setattr(net, name, Conv(child))
            case layers.BatchNorm():
                setattr(net, name, nn.BatchNorm1d(child.num_features, eps=1e-3, momentum=0.01))
            case _:
                plain(child)
    return net

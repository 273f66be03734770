"""The same nets and updates in less time: all that is clever for the sake of speed, behind the config key `fast`.

`speed_up` is for nets, `ecgexp.fast.training` for a training. Without them all is plain PyTorch, whose results are
equal but for rounding and for the random numbers of dropout (`tests/fast`).
"""

from ecgexp.fast.layers import speed_up

__all__ = ["speed_up"]

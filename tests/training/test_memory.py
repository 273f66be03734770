"""Memory that a step frees is reused by the next step."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """\
import resource
import torch
from ecgexp.fast.training import keep_freed_memory

{prepare}
for step in range(20):
    if step == 3:  # the first ones may still make room beside what was imported
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in ways of their own")
@pytest.mark.slow
def test_large_tensors_do_not_ask_the_system_for_their_pages_again_and_again():
    def faults(prepare: str) -> int:
        code = STEPS.format(prepare=prepare)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert faults("keep_freed_memory()") < faults("") / 10

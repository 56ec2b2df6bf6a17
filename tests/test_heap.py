"""Freed memory stays with the process: the same work a second time asks the system for nothing."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
torch.set_num_threads(1)
from clients.heap import keep_freed_memory
kept = {keep} and keep_freed_memory()
layers = torch.nn.Sequential(*[torch.nn.Conv3d(4, 4, 3, padding=1) for _ in range(4)])
def work():
    for _ in range(5):
        layers(torch.ones(2, 4, 32, 32, 32)).mean().backward()  # 1 MiB per activation
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> tuple[bool, int]:
    told = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], check=True, capture_output=True, text=True).stdout
    kept, count = map(int, told.split())
    return bool(kept), count


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc lets a program tune its heap")
def test_repeated_work_faults_no_pages_in() -> None:
    kept, few = faults(keep=True)
    _, many = faults(keep=False)
    assert kept
    assert few < many / 10

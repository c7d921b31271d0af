"""Freed memory stays with the process that runs a command."""

from __future__ import annotations

import os
import subprocess
import sys
from subprocess import PIPE

import pytest

PROGRAM = """
import resource
import torch
from espnet_llada.bin.options import run_main

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work(cmd=None):
    for number in range(28):
        if number == 20:  # until then what is freed may not fit yet, by a few bytes
            before = faults()
        torch.ones(2**24)  # 64 MiB
    print(faults() - before)

work()
run_main(work)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_freed_tensor_s_pages_are_used_again():
    own = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=PIPE, check=True, env=own
    )
    anew, kept = map(int, done.stdout.split())
    if anew < 1000:
        pytest.skip("this malloc keeps freed memory by itself")
    assert kept < anew / 10

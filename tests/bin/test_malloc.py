"""Freed memory stays with the process that runs a command."""

from __future__ import annotations

import os
import subprocess
import sys
from subprocess import PIPE

import pytest

PROGRAM = """
import resource, sys
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

run_main(work) if sys.argv[1] == "kept" else work()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_freed_tensor_s_pages_are_used_again():
    def faults(how: str) -> int:
        cmd = [sys.executable, "-c", PROGRAM, how]
        own = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        return int(subprocess.run(cmd, stdout=PIPE, check=True, env=own).stdout)

    if (anew := faults("plain")) < 1000:
        pytest.skip("this malloc keeps freed memory by itself")
    assert faults("kept") < anew / 10

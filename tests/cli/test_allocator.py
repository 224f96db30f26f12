"""`allocator`: freed buffers of large messages are returned to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Prints by how many KiB the process has grown after it has freed a hundred buffers, each of which is followed by a small object.
PROGRAM = """
import sys
from smtp_trio._cli.allocator import return_freed_memory

if sys.argv[1] == "set":
    return_freed_memory()


def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


bytearray(1 << 20)
before, kept, buffers = resident(), [], []
for _ in range(100):
    buffers.append(bytearray(b"x") * (1 << 19))
    kept.append(bytearray(20000))
del buffers
print(resident() - before)
"""


def growth(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="requires the GNU C library")
def test_freed_buffers_are_returned() -> None:
    assert growth("set") < 10_000
    assert growth("unset") > 30_000  # the problem that the settings solve

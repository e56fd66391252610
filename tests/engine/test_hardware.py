"""What the machine gives a train, and gets back."""

import subprocess
import sys

import pytest

from tests.live import ROOT

# Every other one of many pieces is freed: none of the gaps is at the end, where the C library would
# give them back by itself.
GAPS = """
import ctypes
from engine.run.hardware import freed_memory_return, keep_freed_memory

def megabytes():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) >> 10

keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
pieces = [library.malloc(1 << 20) for _ in range(200)]
for piece in pieces:
    ctypes.memset(piece, 1, 1 << 20)
for piece in pieces[::2]:
    library.free(piece)
held = megabytes()
freed_memory_return()
print(held - megabytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has the switch")
def test_freed_memory_is_kept_and_given_back_when_asked():
    result = subprocess.run(
        [sys.executable, "-c", GAPS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(result.stdout) >= 95

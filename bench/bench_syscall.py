# SPDX-License-Identifier: MIT
"""io_uring_enter through ctypes: which calling convention is the fastest that is correct?

    python3 bench/bench_syscall.py [--quick] [--json FILE]

CPython is fastest without a signature (what syscalls.py does), PyPy with one (what it does there).
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import System, main, timed

from rawuring import Ring, syscalls

COUNT = 200


def benches(quick: bool) -> dict[str, dict[str, System]]:
    ring = Ring(4)
    KEEP.append(ring)
    fd, number = ring.fileno(), syscalls.SYSCALL_NUMBERS[syscalls.abi()][1]
    word, u32, pointer, size = ctypes.c_long, ctypes.c_uint, ctypes.c_void_p, ctypes.c_size_t

    def function(signature: tuple | None, use_errno: bool = True):
        found = ctypes.CDLL(None, use_errno=use_errno)["syscall"]
        found.restype = word
        if signature:
            found.argtypes = signature
        return found

    signature = (word, word, u32, u32, u32, pointer, size)
    plain, signed, deaf = function(None), function(signature), function(None, use_errno=False)
    signed_deaf = function(signature, use_errno=False)
    prototype = ctypes.CFUNCTYPE(word, *signature, use_errno=True)(("syscall", ctypes.CDLL(None)))
    longs = [word(value) for value in (number, fd, 0, 0, 1, 0, 0)]
    boxed = [word(number), ctypes.c_int(fd), u32(0), u32(0), u32(1), pointer(None), size(0)]
    calls = {
        "ints, no signature, errno (syscalls.py on CPython)": lambda: plain(number, fd, 0, 0, 1, None, None),
        "signature, errno (syscalls.py on PyPy)": lambda: signed(number, fd, 0, 0, 1, None, 0),
        "no signature, errno lost": lambda: deaf(number, fd, 0, 0, 1, None, None),
        "signature, errno lost": lambda: signed_deaf(number, fd, 0, 0, 1, None, 0),
        "CFUNCTYPE prototype, errno": lambda: prototype(number, fd, 0, 0, 1, None, 0),
        "ready-made ctypes objects": lambda: plain(*boxed),
        "ready-made c_long": lambda: plain(*longs),
        "syscalls.enter": lambda: syscalls.enter(fd, 0, 0, 1),
        "syscalls.io_uring_enter": lambda: syscalls.io_uring_enter(fd, 0, 0, 1),
        "os.getppid, the floor": os.getppid,
    }

    def repeat(call):
        def many() -> None:
            for _ in range(COUNT):
                call()

        return many

    rounds = 5 if quick else 50
    return {
        "io_uring_enter(GETEVENTS), per call": {
            name: timed(repeat(call), COUNT, rounds) for name, call in calls.items()
        }
    }


KEEP: list[Ring] = []

if __name__ == "__main__":
    main(__doc__.splitlines()[0], benches)
    for ring in KEEP:
        ring.close()

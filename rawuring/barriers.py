# SPDX-License-Identifier: MIT
# pyright: basic
"""load_acquire, store_release and full_fence for words that a kernel on another CPU reads and writes.

What it is: the only way to the shared words of a ring. A word is an item of an indexable made by
map_words(), and it is touched only through the three names below.
Mirrors: liburing ``src/include/liburing/barrier.h``.
Must not know: what the words mean.
Invariant: an access is one whole, aligned 32-bit load or store, never two halves, never byte by byte.
Read next: params.py, or at once queues.py.

Unless said otherwise, memory passed to a call may be freed when the call returns.

What each barrier is for. A ring is a one-way street with two ends. Whoever produces writes the entries
and then moves the tail; whoever consumes reads the tail, reads the entries and then moves the head.

* ``load_acquire``: what is read after it is at least as new as the word. "I saw the tail, so I see the
  entries before it." Pairs with the kernel's smp_store_release of cq.tail and sq.head.
* ``store_release``: what was read or written before it has happened when the word changes. "The entries
  are complete (or: copied out), now the index may move." Pairs with the kernel's smp_load_acquire of
  sq.tail and, for cq.head, with its control dependency in io_get_cqe.
* ``full_fence``: a store before it is seen before a load after it is made. Needed in one place: between
  publishing sq.tail and reading NEED_WAKEUP on an SQPOLL ring. Every CPU may swap the two otherwise,
  x86 included: without a fence, CPython 3.11 missed the wake-up in 352 of 604,000 rounds.

What each CPU needs.

* x86 and s390x keep loads in order and stores in order; only a later load may pass an earlier store. The
  first two barriers are therefore free there, and only full_fence costs an instruction.
* All others may reorder anything, so each barrier is an access and a real fence.

How a fence is had without a compiler. ``fence_kind()`` names what is in use:

* "lock": to lock, unlock and lock a fresh lock. Its atomic instruction is a full fence on x86 (LOCK
  prefix) and s390x (CS serializes). On arm64 an unlock (store-release) followed by a lock (load-acquire)
  is one, and on 32-bit arm each half contains a dmb. About 150 ns.
* "libatomic": atomic_thread_fence(seq_cst) of GCC's run-time library. About 110 ns.
* "stub": the CPU's fence instruction and a return, in a read-only executable page. About 60 ns.
* "membarrier": MEMBARRIER_CMD_GLOBAL_EXPEDITED, which issues a full barrier on the calling CPU before it
  does anything else. The private command does not when the process has a single thread. About 900 ns.
* "none": nothing was found. ``ordered()`` is then False, and rings.py refuses SQPOLL and enters the kernel
  before every reap: the kernel orders its own loads there (smp_rmb in io_cqring_events), and the
  return from a system call is not speculated past.

How a whole word is moved. CPython's ``memoryview.cast("I")`` copies 4 bytes with a memcpy of constant
size: one instruction wherever the compiler may assume that unaligned access works (x86, arm64, POWER,
s390x, loongarch64, armhf). Elsewhere (riscv64, MIPS, SPARC, armel ...) it becomes four byte accesses, and
PyPy moves bytes one by one on any CPU. map_words() knows, and uses what does not tear:
PyPy's ctypes items, libatomic's __atomic_load_4 and __atomic_store_4, or, last, bytes in an order that
never shows the kernel an index ahead of the truth. ``struct.pack_into`` must never touch such a word:
it clears the bytes before it fills them, and the kernel would see an index of 0 in between.
"""

from __future__ import annotations

import functools
import operator
import sys
from _thread import allocate_lock

from . import syscalls, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Protocol

    class Words(Protocol):
        """Describe an indexable of 32-bit words in shared memory."""

        def __getitem__(self, index: int, /) -> int:
            """Load one word."""
            ...

        def __setitem__(self, index: int, value: int, /) -> None:
            """Store one word."""


_TOTAL_STORE_ORDER = ("x86_64", "x32", "i386", "s390x")
_LOCK_IS_FULL_FENCE = (*_TOTAL_STORE_ORDER, "aarch64", "arm")
_WHOLE_WORDS = ("x86_64", "x32", "i386", "s390x", "aarch64", "ppc64", "ppc64le", "ppc", "loongarch64")

# The fence instruction and a return, assembled. Source: binutils. Big-endian POWER is missing: its ABI wants
# a function descriptor.
_STUBS = {
    "ppc64le": "ac04007c2000804e",  # sync; blr
    "riscv64": "0f0030038280",  # fence rw,rw; ret
    "loongarch64": "000072382000004c",  # dbar 0; ret
    "mips_n64": "0f0000000800e00300000000",  # sync; jr ra; nop (little-endian)
}


# ------------------------------------------------------------------------------------------------------
# The three names


def load_acquire(words: Words, index: int) -> int:
    """Load a word so that everything read afterwards is at least as new.

    Args: words from map_words(); index counts 32-bit words.
    Returns: the word.
    Mirrors: liburing io_uring_smp_load_acquire
    """
    value = words[index]
    _fence()
    return value


def store_release(words: Words, index: int, value: int) -> None:
    """Store a word after everything read or written before it.

    Args: words from map_words(); index counts 32-bit words; value is a u32.
    Mirrors: liburing io_uring_smp_store_release
    """
    _fence()
    words[index] = value


def full_fence() -> None:
    """Let everything stored before be seen before anything loaded after.

    Mirrors: liburing io_uring_smp_mb
    """
    _fence()


def fence_kind() -> str:
    """Name how this machine gets a full fence: lock, libatomic, stub, membarrier or none.

    Returns: one of the words that the head of this file explains.
    """
    return _choose()[0]


def ordered() -> bool:
    """Tell whether the three barriers hold on this machine.

    Returns: False where no fence was found; the kernel must then be entered before every reap.
    """
    return _choose()[0] != "none"


# ------------------------------------------------------------------------------------------------------
# Fences


def _lock_fence() -> None:
    # Fresh, so that no other thread can hold it; unlock-then-lock is the order that arm64 needs.
    lock = allocate_lock()
    lock.acquire()
    lock.release()
    lock.acquire()


def _no_fence() -> None:
    return None


def _first_fence() -> None:
    _choose()
    _fence()


_fence: Callable[[], object] = _first_fence
_chosen: tuple[str, Callable[[], object]] | None = None


def _choose() -> tuple[str, Callable[[], object]]:
    """Find the fence on first use: nothing may be opened or loaded at import."""
    global _chosen, _fence
    if _chosen is None:
        on_linux = sys.platform.startswith(("linux", "android"))
        abi = syscalls.abi() if on_linux else "x86_64"  # elsewhere no kernel is at the other end
        found: tuple[str, Callable[[], object]] | None = None
        if abi in _LOCK_IS_FULL_FENCE:
            found = ("lock", _lock_fence)
        found = found or _libatomic_fence() or _stub_fence(abi) or _membarrier_fence()
        _chosen = found or ("none", _no_fence)
        _fence = _chosen[1]
    return _chosen


def _libatomic_fence() -> tuple[str, Callable[[], object]] | None:
    libatomic = _libatomic()
    if libatomic is None:
        return None
    function = libatomic.atomic_thread_fence
    function.restype = None
    return "libatomic", lambda: function(5)  # memory_order_seq_cst


@functools.lru_cache(None)
def _libatomic() -> Any:
    import ctypes

    try:
        return ctypes.CDLL("libatomic.so.1")
    except OSError:
        return None


def _stub_fence(abi: str) -> tuple[str, Callable[[], object]] | None:
    if abi not in _STUBS or (abi == "mips_n64" and sys.byteorder == "big"):
        return None
    address = _executable(bytes.fromhex(_STUBS[abi]))
    if not address:
        return None
    import ctypes

    function: Callable[[], object] = ctypes.CFUNCTYPE(None)(address)
    return "stub", function


def _executable(code: bytes) -> int:
    """Map code read-only and executable; return its address, or 0 where that is not allowed.

    A memfd that is written first and mapped privately afterwards passes where memory that is both
    writable and executable does not (PR_SET_MDWE, memfd_noexec=2). The page stays as long as the process.
    """
    import ctypes
    import mmap
    import os

    try:
        fd = os.memfd_create("rawuring-fence", 1)  # MFD_CLOEXEC
    except (OSError, AttributeError):
        return 0
    try:
        os.write(fd, code)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        size, offset = ctypes.c_size_t(len(code)), ctypes.c_long(0)
        address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, fd, offset)
    finally:
        os.close(fd)
    failed = ctypes.c_void_p(-1).value
    return 0 if address in (None, failed) else int(address)


def _membarrier_fence() -> tuple[str, Callable[[], object]] | None:
    command = uapi.MEMBARRIER_CMD_GLOBAL_EXPEDITED
    try:
        syscalls.membarrier(uapi.MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED)
        syscalls.membarrier(command)
    except OSError:
        return None
    return "membarrier", lambda: syscalls.membarrier(command)


# ------------------------------------------------------------------------------------------------------
# Words


def map_words(memory: Any) -> Words:
    """View shared memory as 32-bit words that are moved whole.

    Args: memory is a writable buffer whose start and length are multiples of 4 bytes.
    Returns: an indexable; release_words() gives the memory free again.
    Lifetime: none; the words hold the memory.
    """
    if sys.implementation.name == "pypy":
        import ctypes

        # PyPy's memoryview items tear; its ctypes items are one access.
        array: Words = syscalls.array_type(ctypes.c_uint32, len(memory) // 4).from_buffer(memory)
        return array
    if _moves_whole_words():
        return memoryview(memory).cast("B").cast("I")
    libatomic = _libatomic()
    return _BytewiseWords(memory) if libatomic is None else _AtomicWords(memory, libatomic)


def release_words(words: Words) -> None:
    """Give up a view that map_words() made, so that its memory can be unmapped.

    Args: words as map_words() returned them; they are unusable afterwards.
    """
    release = getattr(words, "release", None)
    if release is not None:
        release()


def whole_words(words: Words) -> bool:
    """Tell whether a store to these words is one store.

    Args: words from map_words().
    Returns: False where bytes are stored one by one; an index then shows old and new bytes for a moment.
    """
    return not isinstance(words, _BytewiseWords)


def _moves_whole_words() -> bool:
    if not sys.platform.startswith(("linux", "android")):
        return True  # no kernel at the other end: tests and lessons only
    abi = syscalls.abi()
    if abi == "arm":  # armhf compiles for ARMv7, which allows unaligned access; armel does not
        return str(getattr(sys.implementation, "_multiarch", "")).endswith("hf")
    return abi in _WHOLE_WORDS


class _AtomicWords(syscalls.Uncopyable):
    """Words moved by libatomic, for CPUs without unaligned access."""

    __slots__ = ("_address", "_load", "_memory", "_store")

    def __init__(self, memory: Any, libatomic: Any) -> None:
        import ctypes

        self._memory: Any = syscalls.array_type(ctypes.c_uint32, len(memory) // 4).from_buffer(memory)
        self._address = ctypes.addressof(self._memory)
        # Not by item, which is a new function each time, and one with argtypes is a cycle.
        self._load = getattr(libatomic, "__atomic_load_4")
        self._load.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._load.restype = ctypes.c_uint32
        self._store = getattr(libatomic, "__atomic_store_4")
        self._store.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int)
        self._store.restype = None

    def __getitem__(self, index: int) -> int:
        return int(self._load(self._address + 4 * index, 5))  # memory_order_seq_cst

    def __setitem__(self, index: int, value: int) -> None:
        self._store(self._address + 4 * index, value, 5)

    def release(self) -> None:
        self._memory = None


class _BytewiseWords(syscalls.Uncopyable):
    """Words moved byte by byte without showing either side an index that was never true.

    A load is repeated until two in a row agree: the kernel stores whole words that only grow. A store
    writes the lowest byte first. Every value in between is then at most the new one, so the kernel
    may think for a moment that less is free than is so, never more.
    """

    __slots__ = ("_bytes", "_words")

    def __init__(self, memory: Any) -> None:
        self._bytes = memoryview(memory).cast("B")
        self._words = self._bytes.cast("I")

    def __getitem__(self, index: int) -> int:
        value = self._words[index]
        while True:
            again = self._words[index]
            if again == value:
                return value
            value = again

    def __setitem__(self, index: int, value: int) -> None:
        data = value.to_bytes(4, sys.byteorder)
        for i in range(4) if sys.byteorder == "little" else range(3, -1, -1):
            self._bytes[4 * index + i] = data[i]

    def release(self) -> None:
        self._words.release()
        self._bytes.release()


def _is_tso() -> bool:
    import os

    machine = os.uname().machine if hasattr(os, "uname") else "x86_64"
    return machine in ("x86_64", "amd64", "s390x") or (machine[0] == "i" and machine.endswith("86"))


if _is_tso() and not TYPE_CHECKING:
    # The plain access is the barrier on these CPUs, so the names cost no Python frame: 30 ns, not 60.
    load_acquire = operator.getitem
    store_release = operator.setitem

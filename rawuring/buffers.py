# SPDX-License-Identifier: MIT
"""Pin Python memory, so that its address may be given to the kernel.

What it is: Pin, an address together with the export that keeps it valid, and what is made of one.
Must not know: rings, operations.
Invariant: an address never leaves this file without an object that keeps the memory where it is.
Read next: inflight.py, which holds the pins until the kernel has let go of them.

While a Pin lives, its object's buffer is exported: Python itself then refuses to resize or free it
(``bytearray.extend`` raises BufferError). PyPy moves and resizes exported bytearrays all the same, so there
only memory that lives outside the Python heap is accepted: allocate() makes such memory.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PYPY = sys.implementation.name == "pypy"


class Pin:
    """An address in memory that stays valid while this object lives."""

    __slots__ = ("_export", "address", "nbytes")

    def __init__(self, address: int, nbytes: int, export: Any) -> None:
        """Tie an address to what keeps it valid; use pin() to make one."""
        #: Where the memory begins, as an int for an SQE's addr field.
        self.address = address
        #: How many bytes it has.
        self.nbytes = nbytes
        self._export = export

    def __repr__(self) -> str:
        """Show address and size."""
        return f"<Pin {self.nbytes} bytes at {self.address:#x}>"


def pin(memory: Any, writable: bool = False) -> Pin:
    """Export an object's buffer and return its address.

    Args: memory is anything with a contiguous buffer (bytes, bytearray, memoryview, array, mmap, ctypes,
        numpy); writable says that the kernel will write into it.
    Returns: a Pin; keep it as long as the operation says.
    Raises: TypeError for read-only memory that is to be written, for memory that PyPy could move, and for
        objects without a buffer; BufferError for memory in pieces.
    Lifetime: until the final CQE, unless the operation promises less.
    """
    import ctypes

    view = memoryview(memory)
    if not view.c_contiguous:
        raise BufferError("memory must be contiguous to have one address")
    nbytes = view.nbytes
    if view.readonly and writable:
        raise TypeError(f"the kernel would write into a read-only {type(memory).__name__}")
    if not nbytes:
        return Pin(0, 0, view)
    if _PYPY and not isinstance(memory, bytes):
        _refuse_movable(memory)
    if not view.readonly:
        view.release()
        array = (ctypes.c_char * nbytes).from_buffer(memory)
        return Pin(ctypes.addressof(array), nbytes, array)
    if isinstance(memory, bytes):
        pointer = ctypes.c_char_p(memory)
        return Pin(ctypes.cast(pointer, ctypes.c_void_p).value or 0, nbytes, pointer)
    return _pin_readonly(view)


def _refuse_movable(memory: Any) -> None:
    import ctypes
    import mmap

    if not isinstance(memory, (mmap.mmap, ctypes.Array)):
        raise TypeError(
            f"PyPy may move the memory of a {type(memory).__name__} while the kernel uses it: "
            "use buffers.allocate(), an mmap or a ctypes array"
        )


def _pin_readonly(view: memoryview) -> Pin:
    """Get the address of read-only memory, which ctypes does not give."""
    import ctypes

    class PyBuffer(ctypes.Structure):
        _fields_ = (
            ("buf", ctypes.c_void_p),
            ("obj", ctypes.py_object),
            ("len", ctypes.c_ssize_t),
            ("itemsize", ctypes.c_ssize_t),
            ("readonly", ctypes.c_int),
            ("ndim", ctypes.c_int),
            ("format", ctypes.c_char_p),
            ("shape", ctypes.c_void_p),
            ("strides", ctypes.c_void_p),
            ("suboffsets", ctypes.c_void_p),
            ("internal", ctypes.c_void_p),
        )

    raw = PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(raw), 0)
    address = raw.buf
    # The view itself is an export of the same memory, so this second one is given back at once.
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(raw))
    return Pin(address, view.nbytes, view)


def allocate(nbytes: int) -> Any:
    """Make zeroed, page-aligned memory outside the Python heap.

    Args: nbytes is more than 0.
    Returns: an mmap.mmap: a buffer that fits O_DIRECT, registered buffers and PyPy.
    Lifetime: none; free it with close() or by forgetting it.
    """
    import mmap

    return mmap.mmap(-1, nbytes)


def timespec(timeout_ns: int) -> Pin:
    """Build a __kernel_timespec.

    Args: timeout_ns in nanoseconds, 0 or more.
    Returns: a Pin of 16 bytes.
    Lifetime: until submit returns; until the final CQE on an SQPOLL ring or before 5.5.
    Source: Linux include/uapi/linux/time_types.h
    """
    import ctypes

    if timeout_ns < 0:
        raise ValueError(f"timeout_ns={timeout_ns} is negative")
    array = (ctypes.c_int64 * 2)(*divmod(timeout_ns, 1_000_000_000))
    return Pin(ctypes.addressof(array), 16, array)

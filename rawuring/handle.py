# SPDX-License-Identifier: MIT
# pyright: basic
"""The parts of a ring and its owner: from setup to close.

What it is: RingHandle, which creates a ring, maps it, ties it to one thread, and closes what it opened; the
registry through which fork() and the exit of the interpreter find every ring.
Mirrors: liburing ``src/setup.c``.
Must not know: how requests are submitted and completions reaped.
Invariant: a thread that is not the owner is rejected before it touches an index, and every ring ends
    "closed".
Read next: rings.py. On a first reading: the table of the states; the rest when something fails.

Unless said otherwise, memory passed to a call may be freed when the call returns, only the thread that owns a
ring may use it, and Linux 5.1 suffices.

The states of a ring. ``owner`` is a thread's ident only in the first; in each of the others it is 0, which no
thread has, so the test at the head of every call detects them all::

    state     begins with                   get_sqe(), other calls          close()
    ========  ============================  ==============================  ==============================
    open      __init__, bind_thread(),      for the owner; WrongThread for  drains the tables, then closed
              enable()                      all others
    broken    the kernel moved the rings,   RingClosed                      maps again to drain, if it can;
              or the index ended with its                                   then closed
              thread; nothing replaces it
    forked    fork(), in the child          ForkedRing; from the queues     nothing is left to do
                                            RingClosed
    closed    close(), __del__, exit        RingClosed                      completes the steps that a signal
                                                                            handler's exception prevented

Only the owner may call close() (of a broken ring: its last owner), or any thread once the owner has ended.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from _thread import _local, get_ident
from functools import partial

from . import barriers, syscalls, uapi
from .mapping import _U32, check_layout, check_room, map_rings, memory_sizes, place, unmap
from .params import Dropped, check_integers, check_sizes, flag_names, setup
from .queues import CompletionQueue, RewindSubmissionQueue, RingClosed, SubmissionQueue, WrongThread
from .syscalls import Uncopyable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Any, Callable, NoReturn, TypeVar

    _Changing = TypeVar("_Changing")
    _Copy = TypeVar("_Copy")
    _Handle = TypeVar("_Handle", bound="RingHandle")

#: The errnos with which a sandbox or an administrator takes io_uring away while it is in use.
REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
#: The errnos of a ring whose descriptor was closed by other code, and perhaps reused.
GONE = (errno.EBADF, errno.EOPNOTSUPP, errno.ENXIO)
LOST = REFUSED + GONE


class ForkedRing(RuntimeError):
    """Raised by a ring that fork() copied and that belongs to the parent; its queues say RingClosed."""


class RingHandle(Uncopyable):
    """A ring without its calls: the descriptor, the mappings that contain the queues, and the owner."""

    #: Whether another object owns the ring and closes it. If both are dropped unclosed, only the owner may
    #: warn: the garbage collector finalizes a cycle in any order, perhaps the ring first.
    owned = False

    def __init__(
        self,
        entries: int = 128,
        *,
        flags: int = 0,
        wish: int = 0,
        cq_entries: int | None = None,
        min_entries: int | None = None,
        sq_thread_cpu: int | None = None,
        sq_thread_idle_ms: int | None = None,
        wq_fd: int | None = None,
        memory: tuple[Any, Any] | None = None,
        single_mmap: bool = True,
    ) -> None:
        """Create and map a ring.

        Args: entries is the SQ size, rounded up to a power of two by the kernel; flags are required,
            wish is granted as far as this kernel can (see ``dropped``); cq_entries is the CQ size, by
            default twice the SQ's; min_entries allows fewer entries when memory is short; sq_thread_cpu
            and sq_thread_idle_ms are for SQPOLL; wq_fd is a ring whose workers are shared; memory is a
            pair of page-aligned writable buffers (rings, SQEs) for NO_MMAP, allocated when it is absent;
            single_mmap False maps the CQ separately, as before 5.4.
        Raises: Unavailable with the cause; TypeError and ValueError for arguments that no kernel would
            accept.
        Threads: the creator becomes the owner.
        Mirrors: liburing io_uring_queue_init_params
        """
        self._owner = 0
        self._state = "closed"
        #: The ring can no longer be used.
        self.closed = True
        self._fd = self._wakeup_fd = -1
        self._registered_only = False  # REGISTERED_FD_ONLY, or close_fd(): no descriptor, only an index
        self._mappings: list[Any] = []
        self._borrowed = memory is not None
        check_integers(
            entries=entries, flags=flags, wish=wish, cq_entries=cq_entries, min_entries=min_entries,
            sq_thread_cpu=sq_thread_cpu, sq_thread_idle_ms=sq_thread_idle_ms, wq_fd=wq_fd,
        )  # fmt: skip
        if memory is not None and not (isinstance(memory, (tuple, list)) and len(memory) == 2):
            raise TypeError(f"memory must be a pair of buffers (rings, SQEs), not {memory!r:.50}")
        fields = {"sq_thread_cpu": sq_thread_cpu or 0, "sq_thread_idle": sq_thread_idle_ms or 0}
        if cq_entries is not None:
            flags |= uapi.IORING_SETUP_CQSIZE
            fields["cq_entries"] = cq_entries
        if sq_thread_cpu is not None:
            flags |= uapi.IORING_SETUP_SQ_AFF
        if wq_fd is not None:
            flags |= uapi.IORING_SETUP_ATTACH_WQ
            fields["wq_fd"] = wq_fd
        if memory is not None:
            flags |= uapi.IORING_SETUP_NO_MMAP
        check_sizes(entries, cq_entries, flags, wish, wq_fd)
        if (flags | wish) & uapi.IORING_SETUP_SQPOLL and not barriers.ordered():
            raise ValueError("IORING_SETUP_SQPOLL needs a full memory fence, which this machine lacks")
        try:
            if flags & uapi.IORING_SETUP_NO_MMAP:
                self._setup_in(memory, entries, flags, wish, fields)
            else:
                wish &= ~(uapi.IORING_SETUP_NO_MMAP | uapi.IORING_SETUP_REGISTERED_FD_ONLY)
                result = self._setup(entries, flags, wish, fields, min_entries or entries)
                self._fd, self.params, self.dropped = result
            self._attach(single_mmap)
            self._open()
        except BaseException:
            self._release()
            raise

    def _setup_in(
        self, memory: tuple[Any, Any] | None, entries: int, flags: int, wish: int, fields: dict[str, int]
    ) -> None:
        """Create a ring inside our own memory (NO_MMAP)."""
        import ctypes

        rings, sqes = place(memory, entries, fields.get("cq_entries", 0), flags | wish)
        packed = {
            "sq_off": {"user_addr": ctypes.addressof(ctypes.c_char.from_buffer(sqes))},
            "cq_off": {"user_addr": ctypes.addressof(ctypes.c_char.from_buffer(rings))},
        }
        self._mappings = [rings, rings, sqes]
        self._fd, self.params, self.dropped = self._setup(entries, flags, wish, {**fields, **packed}, entries)
        check_room(rings, sqes, memory_sizes(self.params))

    def _attach(self, single_mmap: bool) -> None:
        """Map the ring, and store how it is entered."""
        params = self.params
        #: The setup flags in force: those required and the wishes that were granted.
        self.flags: int = params["flags"]
        #: IORING_FEAT_* mask of this kernel.
        self.features: int = params["features"]
        self._registered_only = bool(self.flags & uapi.IORING_SETUP_REGISTERED_FD_ONLY)
        if not self._mappings:
            self._mappings = list(self._map(params, single_mmap))
        self._attach_queues(params)
        self._enter_fd = self._fd
        self._enter_flags = 0
        if self._registered_only:
            self._enter_flags = uapi.IORING_ENTER_REGISTERED_RING
            this_thread().by_index.add(self)
        self._wait_flags = uapi.IORING_ENTER_GETEVENTS
        if self.features & uapi.IORING_FEAT_NO_IOWAIT:
            # Otherwise a program that waits here for a socket shows as 100 % iowait.
            self._wait_flags |= uapi.IORING_ENTER_NO_IOWAIT
        self._turn_flags = self._wait_flags | self._enter_flags
        self._bind()
        #: Called in this order, as callback(ring, explicit), while the ring still works; one that raises is
        #: called once more. explicit is False without a call of close(): the ring was dropped, or the
        #: interpreter is exiting.
        self.before_close: list[Callable[[Any, bool], None]] = []
        #: Registered objects that must live as long as the registration: (kind, number) -> object.
        #: register.py fills it.
        self.resources: dict[tuple[str, int], Any] = {}

    def _open(self) -> None:
        """Give the ring to this thread, and register it for fork(), exit and the debug and trace modes."""
        self._own()
        _remember(self)
        for module in watchers():
            module.watch(self)

    # -- calls into the kernel: fakekernel.FakeRing replaces them

    def _setup(
        self, entries: int, flags: int, wish: int, fields: dict[str, Any], min_entries: int
    ) -> tuple[int, dict[str, Any], list[Dropped]]:
        return setup(entries, flags, wish, fields, min_entries)

    def _map(self, params: dict[str, Any], single_mmap: bool = True) -> tuple[Any, Any, Any]:
        return map_rings(self._fd, params, single_mmap)

    def _bind(self) -> None:
        """Bind the functions that enter the kernel: attributes, so that a call costs no additional frame."""
        self._call: Callable[..., int] = syscalls.enter
        self._bare: tuple[Callable[..., int], int, Any] = syscalls.bare_enter()

    def _attach_queues(self, params: dict[str, Any]) -> None:
        sq_memory, cq_memory, sqes_memory = self._mappings
        check_layout(self._mappings, params)
        self.params = params
        rewind = self.flags & uapi.IORING_SETUP_SQ_REWIND
        queue = RewindSubmissionQueue if rewind else SubmissionQueue
        self.sq = queue(sq_memory, sqes_memory, params["sq_off"], self.flags)
        self.cq = CompletionQueue(cq_memory, params["cq_off"], self.flags)
        #: Take the next free slot: see SubmissionQueue.get_sqe.
        self.get_sqe: Callable[[], memoryview] = self.sq.get_sqe

    # -- the owner

    def _own(self) -> None:
        if self._by_index() and self not in this_thread().by_index:
            self._lose_index()
        self._state = "open"
        self.closed = False
        self._owner_thread = weakref.ref(this_thread())
        self._owner = self.sq.owner = get_ident()

    def _refuse(self) -> NoReturn:
        if self._state != "open":
            _REFUSED[self._state]()
        raise WrongThread(
            f"this ring belongs to thread {self._owner} and was used in thread {get_ident()}: use one ring "
            "per thread, or bind_thread() to hand it over"
        )

    def bind_thread(self) -> None:
        """Make the calling thread the owner.

        Only while no other thread is using the ring. Requests in flight stay with the thread that
        submitted them: if it ends, they complete with -ECANCELED when their event occurs. A ring that was
        entered by an index of register.register_ring_fd() is entered by its descriptor again, because the
        index belongs to the other thread. Call register.unregister_ring_fd() in that thread first; otherwise
        the index stays taken, and the kernel keeps the ring, until that thread ends.

        Raises: WrongThread when the kernel has bound the ring to its creator (SINGLE_ISSUER), and for a ring
            that has an index and no descriptor; RingClosed; ForkedRing.
        Threads: the new owner.
        Source: Linux 6.12 io_uring/tctx.c __io_uring_add_tctx_node
        """
        if self._state != "open":
            self._refuse()
        self._refuse_to_move()
        fixed = self.flags & uapi.IORING_SETUP_SINGLE_ISSUER
        if self._owner != get_ident() and fixed and not self.flags & uapi.IORING_SETUP_R_DISABLED:
            raise WrongThread(
                "the kernel bound this ring to the thread that created it (IORING_SETUP_SINGLE_ISSUER): "
                "create it with IORING_SETUP_R_DISABLED and call enable() in the thread that is to own it"
            )
        self._own()

    def _borrow(self, call: Callable[[], object]) -> None:
        """Make the calling thread the owner for the duration of a call; the owner before has ended.

        Not a context manager: a signal handler that raised where its __exit__() begins would leave the ring
        to this thread.
        """
        owner, thread = self._owner, self._owner_thread
        try:
            try:
                self.bind_thread()
                call()
            finally:
                if self._state == "open":  # in the other states it is 0
                    self._owner_thread, self._owner, self.sq.owner = thread, owner, owner
        except BaseException:  # before CPython 3.11 they are not one step (the no-call rule, queues.py)
            if self._state == "open":
                self._owner_thread, self._owner, self.sq.owner = thread, owner, owner
            raise

    def _owner_lives(self) -> bool:
        """Tell whether the owner, or the last one of a broken ring, still runs."""
        ident = self._owner_before if self._state == "broken" else self._owner
        # An ident may be that of a later thread by now; PyPy frees the object some time after its thread.
        return self._owner_thread() is not None and thread_lives(ident)

    def _refuse_to_move(self) -> None:
        if self._registered_only and self not in this_thread().by_index:
            raise WrongThread(
                "this ring has no descriptor (IORING_SETUP_REGISTERED_FD_ONLY, close_fd()), and its index "
                "is valid in one thread only: it cannot be handed over"
            )

    @property
    def state(self) -> str:
        """Return "open", "closed", "forked" in a child that inherited the ring, or "broken": see remap().

        Threads: any.
        """
        return self._state

    @property
    def owner(self) -> int:
        """Return the ident of the thread that owns the ring, 0 if none does any longer.

        Threads: any.
        """
        return self._owner

    # -- by descriptor or by index

    def fileno(self) -> int:
        """Return the descriptor, which poll(2) and select(2) report as readable when completions exist.

        It wakes epoll and asyncio, too, but not on a ring with IORING_SETUP_DEFER_TASKRUN (a part of
        rings.RECOMMENDED): use wakeup_fd() there. With IORING_SETUP_IOPOLL it wakes nothing.

        Raises: RingClosed; ValueError on a ring without a descriptor (REGISTERED_FD_ONLY, close_fd()).
        Threads: any.
        """
        if self._state != "open":
            self._refuse()
        if self._registered_only:
            raise ValueError(
                "this ring has an index, no descriptor (IORING_SETUP_REGISTERED_FD_ONLY, close_fd())"
            )
        return self._fd

    def enter_by_index(self, index: int | None) -> int:
        """Enter by an index from register.register_ring_fd(), or by the descriptor again.

        Args: index, or None for the descriptor.
        Returns: the number entered by before.
        Raises: ValueError for None when there is no index, and for a value that cannot be an index.
        Since: 5.18
        """
        if get_ident() != self._owner:
            self._refuse()
        if index is not None:
            check_integers(index=index)
        before = self._enter_fd
        if self._registered_only or (index is None and not self._by_index()):
            raise ValueError("this ring is not entered by an index of register_ring_fd()")
        if index is None:
            self._lose_index()
            this_thread().by_index.discard(self)
        else:
            this_thread().by_index.add(self)
            self._enter_by(index, uapi.IORING_ENTER_REGISTERED_RING)
        return before

    def _by_index(self) -> bool:
        return bool(self._enter_flags & uapi.IORING_ENTER_REGISTERED_RING)

    def _enter_by(self, number: int, flags: int) -> None:
        try:
            self._enter_fd, self._enter_flags, self._turn_flags = number, flags, self._wait_flags | flags
        except BaseException:  # before CPython 3.11 they are not one step (the no-call rule, queues.py)
            self._enter_fd, self._enter_flags, self._turn_flags = number, flags, self._wait_flags | flags
            raise

    def _lose_index(self) -> None:
        """Record that the index is useless: it belongs to another thread, or its thread has ended."""
        if self._registered_only:
            self._break()
        else:
            self._enter_by(self._fd, 0)

    def close_fd(self) -> None:
        """Close the descriptor of a ring that is entered by an index; from now on the ring has none.

        Raises: ValueError when register.register_ring_fd() was not called, or when this kernel cannot
            register without a descriptor.
        Since: 6.3
        Mirrors: liburing io_uring_close_ring_fd
        """
        if get_ident() != self._owner:
            self._refuse()
        if self._registered_only or not self._by_index():
            raise ValueError("this ring is not entered by an index of register_ring_fd()")
        if not self.features & uapi.IORING_FEAT_REG_REG_RING:
            raise ValueError("a ring without a descriptor needs IORING_FEAT_REG_REG_RING (Linux 6.3)")
        fd, self._fd, self._registered_only = self._fd, self._enter_fd, True
        os.close(fd)

    def register(self, opcode: int, arg: Any = None, nr_args: int = 0) -> int:
        """Call io_uring_register on this ring.

        Args: as syscalls.io_uring_register.
        Returns: the operation's return value.
        Raises: OSError with the kernel's errno.
        Lifetime: none, but the registered object lives on.
        Mirrors: liburing do_register
        """
        if get_ident() != self._owner:
            self._refuse()
        return self._register(opcode, arg, nr_args)

    def _register(self, opcode: int, arg: Any, nr_args: int) -> int:
        if self._registered_only:
            opcode |= uapi.IORING_REGISTER_USE_REGISTERED_RING
        elif not self.features & uapi.IORING_FEAT_LINKED_FILE:
            # Before 5.18 the kernel would wait until nothing is in flight, and then reject an unknown opcode.
            since_513 = self.features & uapi.IORING_FEAT_RSRC_TAGS
            last = uapi.IORING_REGISTER_IOWQ_MAX_WORKERS if since_513 else uapi.IORING_REGISTER_ENABLE_RINGS
            if opcode > last:
                syscalls.raise_registration(errno.EINVAL, self._fd, opcode)
        return syscalls.io_uring_register(self._fd, opcode, arg, nr_args)

    # -- whether the kernel still accepts the ring

    def answers(self) -> bool:
        """Tell whether the kernel still accepts calls for this ring, with an enter that does nothing.

        Returns: False if a filter now refuses io_uring, or other code has closed the descriptor.
        Threads: any.
        """
        try:
            self._call(self._enter_fd, 0, 0, self._enter_flags, None)
        except OSError as error:
            return error.errno == errno.EEXIST  # another thread's ring: it exists
        return True

    def lost(self, error: OSError) -> bool:
        """Tell whether an error means that the kernel has taken the ring away.

        A signal handler's own PermissionError looks the same, so the kernel is asked about the ring. A
        descriptor that was closed by other code is disowned.

        Args: error as caught around a call for the ring.
        """
        if not isinstance(error, OSError):
            raise TypeError(f"lost() takes an OSError, not {error!r:.50}")
        if error.errno not in LOST or self.answers():
            return False
        if error.errno in GONE:
            self.disown_fd()
        return True

    def disown_fd(self) -> None:
        """Disown a descriptor that other code has closed: close() will not close that number."""
        self._fd = -1

    # -- when the kernel has moved the rings

    def remap(self, params: dict[str, Any]) -> None:
        """Map the rings again after the kernel has moved them: see register.resize_rings().

        If they cannot be mapped, or an exception of a signal handler interrupts the mapping, the ring is
        broken. A broken ring accepts no call but close(), which tries to map once more, and drains it.

        Args: params is the unpacked io_uring_params that the kernel filled.
        Raises: OSError from mmap(2), when the ring is broken.
        Lifetime: none; views of old slots become invalid.
        Since: 6.13
        """
        if get_ident() != self._owner:
            self._refuse()
        self._break()
        self._map_again(params)
        self._mend()

    def _resize(self, argument: Any) -> None:
        """Let the kernel move the rings as a StructBuffer with io_uring_params says, and map them again."""
        self.fileno()  # a ring without a descriptor cannot be mapped
        self.sq.flush()
        # From here on until they are mapped, any exception leaves a ring whose state is "broken".
        self._break()
        try:
            self._register(uapi.IORING_REGISTER_RESIZE_RINGS, argument.address, 1)
        except BaseException as error:
            if isinstance(error, OSError) and syscalls.is_of_kernel(error):
                self._mend()  # nothing was moved
            else:  # a signal handler's exception: unknown whether they were moved
                self._map_what_is_there()
            raise
        self._map_again(uapi.io_uring_params.unpack(argument.read()))
        self._mend()

    def _break(self) -> None:
        self._state = "broken"
        self._owner_before = self._owner
        self._owner = self.sq.owner = self.sq._limit = 0
        self.get_sqe = _REFUSED["broken"]

    def _mend(self) -> None:
        self.sq._move_limit()
        self.get_sqe = self.sq.get_sqe
        owner = self._owner_before
        self._owner, self.sq.owner, self._state = owner, owner, "open"

    def _map_again(self, params: dict[str, Any]) -> None:
        """Release memory that the kernel may have left, and map the current memory."""
        params = {**params, "flags": self.flags, "features": self.features}
        copied, old = self.cq.copied, self._mappings
        for queue in (self.sq, self.cq):
            _release_queue(queue)
        unmap(old)
        try:
            self._mappings = list(self._map(params))
        except OSError as error:
            what = f"the kernel has moved the rings, and they cannot be mapped: {error.strerror}"
            raise OSError(error.errno, f"{what}. This ring is broken: close it") from None
        self._attach_queues(params)
        self.cq.copied = copied

    def _map_what_is_there(self) -> None:
        """Map a broken ring by the sizes that the kernel has written into it."""
        import mmap

        sq_off, cq_off = self.params["sq_off"], self.params["cq_off"]
        offset = uapi.IORING_OFF_SQ_RING
        with mmap.mmap(self._fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset) as page:
            sq_entries = _U32.unpack_from(page, sq_off["ring_entries"])[0]
            cq_entries = _U32.unpack_from(page, cq_off["ring_entries"])[0]
        if sq_off["array"]:
            # Behind the CQEs, in whole cache lines: true for all kernels that move the array and report
            # where.
            cqes = cq_off["cqes"] + cq_entries * self.cq.cqe_size
            sq_off = {**sq_off, "array": -(-cqes // 64) * 64}
        self._map_again({**self.params, "sq_entries": sq_entries, "cq_entries": cq_entries, "sq_off": sq_off})
        self._mend()

    # -- the end

    def dont_fork(self) -> None:
        """Exclude the rings from forked children, which could not use them; a child gets ForkedRing.

        Code that holds a slot must not touch it in the child, where its memory is not mapped.

        Source: madvise(2), MADV_DONTFORK. Linux 6.12 and 7.2 for user mode (UML) damage their memory when a
            process with 256 SQEs or more mapped forks (seen 2026-11-23); elsewhere this saves work.
        """
        import mmap

        for memory in self._mappings:
            if not self._borrowed and hasattr(memory, "madvise"):
                memory.madvise(mmap.MADV_DONTFORK)

    def close(self) -> None:
        """Let the tables drain their requests, then unmap the rings and close the descriptor.

        An InFlight table cancels and drains its own requests here (before_close). The kernel cancels all
        others some time after this call, and does not report when: drain them first, or keep their memory for
        ever. SQEs that were not submitted are dropped. May be called twice.

        Raises: WrongThread while the owner still lives.
        Threads: the owner, or any thread once the owner has ended.
        Mirrors: liburing io_uring_queue_exit
        """
        if self.closed:
            return
        if self._state in ("closed", "forked"):  # perhaps not completed
            self._release(self._state)
            return
        if self._state == "broken":
            if get_ident() != self._owner_before and self._owner_lives():
                self._refuse()
        elif get_ident() != self._owner:
            if self._owner_lives():
                self._refuse()
            if not self.flags & uapi.IORING_SETUP_SINGLE_ISSUER:  # the kernel lets no other thread enter it
                self._own()  # so that requests in flight can still be cancelled and drained
        self._close(explicit=True)

    def _close(self, explicit: bool) -> None:
        try:
            self._tell(explicit)
        finally:
            try:
                # Once more: a signal handler's exception may have prevented a callback, or stopped it at its
                # first line.
                self._tell(explicit)
            finally:
                self.before_close.clear()
                try:
                    self._release()
                except OSError:  # other code has closed the descriptor, and a finalizer cannot report it
                    if explicit:
                        raise

    def _tell(self, explicit: bool) -> None:
        """Call the functions in before_close; each is removed when it returns."""
        if self._state == "broken" and get_ident() == self._owner_before and not self._registered_only:
            try:
                self._map_what_is_there()
            except OSError:
                pass  # then the tables keep the memory in flight for ever
        call_all(self._callbacks(explicit))  # even if one raises: each may have memory to protect

    def _callbacks(self, explicit: bool) -> Iterator[Callable[[], object]]:
        raised = 0
        while len(self.before_close) > raised:
            callback = self.before_close[raised]
            yield partial(self._call_back, callback, explicit)
            raised += callback in self.before_close

    def _call_back(self, callback: Callable[[Any, bool], None], explicit: bool) -> None:
        callback(self, explicit)
        if callback in self.before_close:
            self.before_close.remove(callback)

    def _release(self, state: str = "closed") -> None:
        """Release memory and descriptor without touching an index."""
        self._owner = 0
        self._state = state
        self.get_sqe = _REFUSED[state]  # not a method of this ring: that would be a cycle
        # Each step may be repeated: the next close() completes steps that a signal handler's exception
        # prevented.
        for queue in (getattr(self, "sq", None), getattr(self, "cq", None)):
            if queue is not None:
                _release_queue(queue)
        if not self._borrowed:
            unmap(self._mappings)
        self._mappings = []
        self._give_back_index(state)
        try:
            self._close_fd()
        finally:  # other code may have closed it
            self._close_wakeup_fd()
            self.closed = self._fd < 0

    def _give_back_index(self, state: str) -> None:
        """Unregister the index, which would keep the ring alive.

        In a forked child, and in another thread, the same number is unused, or belongs to another ring.
        """
        here = this_thread().by_index
        if state == "forked" or self not in here or not self._by_index():
            return
        here.discard(self)
        by_itself = self._registered_only or self._fd < 0
        update = bytearray(uapi.io_uring_rsrc_update.pack(offset=self._enter_fd))
        opcode = uapi.IORING_UNREGISTER_RING_FDS
        if by_itself:
            opcode |= uapi.IORING_REGISTER_USE_REGISTERED_RING
        try:
            syscalls.io_uring_register(self._enter_fd if by_itself else self._fd, opcode, _pointer(update), 1)
        except OSError:
            pass  # it goes with its thread

    def _close_fd(self) -> None:
        if self._fd >= 0 and not self._registered_only:
            fd, self._fd = self._fd, -1  # one step, by the no-call rule (queues.py)
            os.close(fd)
        self._fd = -1

    def _close_wakeup_fd(self) -> None:
        fd, self._wakeup_fd = self._wakeup_fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self: _Handle) -> _Handle:
        """Return the ring itself; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the ring."""
        self.close()

    def __del__(self) -> None:
        """Close a ring that was never closed, with a warning unless it is owned."""
        if getattr(self, "closed", True):
            return
        if self._state in ("closed", "forked"):  # perhaps not completed
            self._release(self._state)
        elif self.owned:
            if self._state == "open" and not self.flags & uapi.IORING_SETUP_SINGLE_ISSUER:
                self._own()  # no other thread can reach it, and the kernel has bound it to no thread
            self._close(explicit=False)
        else:
            import warnings

            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:  # even if warnings are errors
                self._close(explicit=False)

    def __repr__(self) -> str:
        """Show the descriptor, the sizes and the flags."""
        if self._state != "open":
            return f"<Ring {self._state}>"
        names = flag_names(self.flags) or "no flags"
        at = f"index={self._enter_fd}" if self._registered_only else f"fd={self._fd}"
        return f"<Ring {at} sq={self.sq.ring_entries} cq={self.cq.ring_entries} {names}>"


def _refuse_closed() -> NoReturn:
    raise RingClosed("this ring is closed")


def _refuse_forked() -> NoReturn:
    raise ForkedRing(
        "this ring was created before fork() and belongs to the parent process: create a new one here"
    )


def _refuse_broken() -> NoReturn:
    raise RingClosed(
        "this ring is broken: it could not be mapped again when the kernel had moved it, or it had only an "
        "index of a thread that has ended: close it"
    )


_REFUSED: dict[str, Callable[[], NoReturn]] = {
    "closed": _refuse_closed, "forked": _refuse_forked, "broken": _refuse_broken,
}  # fmt: skip


def _pointer(memory: bytearray) -> Any:
    import ctypes

    # Not an array of that size: each size would be a separate type, and each type a cycle.
    return ctypes.byref(ctypes.c_char.from_buffer(memory))


def _release_queue(queue: SubmissionQueue | CompletionQueue) -> None:
    try:
        queue.release()
    except BufferError:
        return  # the mapping outlives the ring, for its remaining views


def call_all(calls: Iterable[Callable[[], object]]) -> None:
    """Call each function, even if others raise.

    Args: calls are functions without arguments.
    Raises: the last exception, with those before it as its context.
    """
    raised: BaseException | None = None
    outer = sys.exc_info()[1]  # the exception that the caller handles, which Python makes the context of each
    for call in calls:
        try:
            call()
        except BaseException as error:
            if raised is not None and error.__context__ is outer:
                error.__context__ = raised
            raised = error
    if raised is not None:
        context = raised.__context__
        try:
            raise raised
        except BaseException:
            raised.__context__ = context  # `raise` has replaced it by the outer one
            raise
        finally:
            del raised, context, outer  # or the frame and its exception would be a cycle


def watchers() -> list[Any]:
    """Import debug.py and trace.py, against the import order, if their environment variables are set.

    Returns: the modules; a partial copy of the package may lack one.
    """
    found = []
    for name, wanted in (
        ("debug", os.environ.get("RAWURING_DEBUG", "0") not in ("", "0")),
        ("trace", os.environ.get("RAWURING_TRACE")),
    ):
        if wanted:
            import warnings
            from importlib import import_module

            try:
                found.append(import_module(f"{__package__}.{name}"))
            except ModuleNotFoundError as error:
                what = f"RAWURING_{name.upper()} is set, but this partial copy has no {name} mode: {error}"
                warnings.warn(what, RuntimeWarning, stacklevel=4)
    return found


_watched: dict[tuple[type[Any], type[Any]], type[Any]] = {}


def watched_class(kind: type[Any], base: type[Any]) -> type[Any]:
    """Combine the class of a ring, a queue or a table with one that watches it.

    Args: kind is the class of the object; base is a subclass of Ring, SubmissionQueue or InFlight.
    Returns: a class that is both, for the object's __class__.
    """
    if issubclass(kind, base):
        return kind
    found = _watched.get((kind, base))
    if found is None:  # created once: a class is a cycle, which only the collector frees
        bases = (base, kind) if kind not in base.__mro__ else (base,)
        found = _watched[kind, base] = type(kind.__name__, bases, {})
    return found


# ------------------------------------------------------------------------------------------------------
# Threads


class _Thread(Uncopyable):
    """A thread, with an identity that is never reused, unlike idents."""

    __slots__ = ("__weakref__", "by_index")

    def __init__(self) -> None:
        """Begin with no ring."""
        #: The rings that are entered by an index of this thread.
        self.by_index: weakref.WeakSet[RingHandle] = weakref.WeakSet()

    def __del__(self) -> None:
        """Stop rings from using an index of a thread that has ended."""
        for ring in _snapshot(list, getattr(self, "by_index", ())):
            if not ring.closed:
                ring._lose_index()


_threads = _local()


def this_thread() -> _Thread:
    """Return an object that represents the calling thread as long as it lives, and is freed when it ends.

    Lifetime: none; a reference to it makes this module treat the thread as alive.
    """
    try:
        return _threads.here  # type: ignore[no-any-return]
    except AttributeError:
        found = _threads.here = _Thread()
        return found


def thread_lives(ident: int) -> bool:
    """Tell whether a thread still runs.

    Args: ident is the result of threading.get_ident() in it.
    Returns: True or False, as of this moment.
    """
    import threading

    # A thread that threading did not start is listed there only if it has asked for its own Thread object.
    return ident in sys._current_frames() or any(each.ident == ident for each in threading.enumerate())


# ------------------------------------------------------------------------------------------------------
# fork and exit

_live: weakref.WeakSet[RingHandle] = weakref.WeakSet()
_hooked = False


def _remember(ring: RingHandle) -> None:
    """Register the ring for fork() and for the exit of the interpreter."""
    global _hooked
    if not _hooked:
        import atexit

        if hasattr(os, "register_at_fork"):  # not on Windows, where the pure-Python kernel runs
            os.register_at_fork(after_in_child=_after_fork_in_child)
        atexit.register(_at_exit)
        _hooked = True
    _live.add(ring)


def _snapshot(make: Callable[[_Changing], _Copy], changing: _Changing) -> _Copy:
    """Copy a collection that other threads may be changing.

    Args: make is the type of the copy.
    """
    while True:
        try:
            return make(changing)
        except RuntimeError:  # a set, or any collection on PyPy: it changed during the copy
            continue


def _after_fork_in_child() -> None:
    # The rings are shared memory: changing an index here would change the parent's. The descriptors must
    # be closed at once, or this process would keep the parent's requests alive after the parent closed its
    # ring.
    for ring in _snapshot(list, _live):
        try:
            ring._release("forked")
        except OSError:
            continue  # other code has closed its descriptor; the rest must be disowned all the same
    _live.clear()
    syscalls.forget_array_types()


def _at_exit() -> None:
    # Buffers are freed during interpreter shutdown, when no request may write to them any more.
    call_all(partial(_close_at_exit, ring) for ring in _snapshot(list, _live) if not ring.closed)


def _close_at_exit(ring: RingHandle) -> None:
    try:
        ring._close(explicit=False)
    except OSError as error:
        if error.errno != errno.EBADF:  # its descriptor was closed: there is no caller to report it to
            raise

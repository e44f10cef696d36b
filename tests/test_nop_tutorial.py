# SPDX-License-Identifier: MIT
"""One no-op, every index at every step: read this to see how the ring moves.

The same steps run over the fake kernel and over the real one. The words that the kernel can change are read
directly from the shared memory.
"""

from __future__ import annotations

import struct

import pytest

from rawuring import ops, rings
from rawuring.fakekernel import fake_ring
from rawuring.syscalls import Unavailable


@pytest.fixture(params=["fake", "kernel"])
def ring(request):
    if request.param == "fake":
        with fake_ring(entries=2) as (_, ring):
            yield ring
        return
    try:
        ring = rings.Ring(2)
    except Unavailable as error:
        pytest.skip(f"io_uring (Linux 5.1): {error}")
    with ring:
        yield ring


def words(ring: rings.Ring) -> dict[str, int]:
    """Read the four indices that both sides share."""
    sq_memory, cq_memory, _ = ring._mappings
    found = {}
    for name, memory, offset in (
        ("sq.khead", sq_memory, ring.params["sq_off"]["head"]),
        ("sq.ktail", sq_memory, ring.params["sq_off"]["tail"]),
        ("cq.khead", cq_memory, ring.params["cq_off"]["head"]),
        ("cq.ktail", cq_memory, ring.params["cq_off"]["tail"]),
    ):
        found[name] = struct.unpack("=I", bytes(memory[offset : offset + 4]))[0]
    return found


def test_a_nop_goes_round_and_every_index_moves_when_it_should(ring):
    # A ring of 2: by the fifth round, every slot has been used twice.
    assert (ring.sq.ring_entries, ring.sq.ring_mask) == (2, 1)
    assert (ring.cq.ring_entries, ring.cq.ring_mask) == (4, 3)
    for n in range(5):
        # Nothing is in flight: on each ring, head and tail are equal.
        assert words(ring) == {"sq.khead": n, "sq.ktail": n, "cq.khead": n, "cq.ktail": n}
        assert (ring.sq.pending(), ring.sq.space_left(), ring.cq.ready()) == (0, 2, 0)

        # 1. Take a slot. Only our private tail moves; the kernel knows nothing of it.
        sqe = ring.get_sqe()
        assert ring.sq.sqe_tail == n + 1
        assert (sqe.nbytes, sqe.readonly) == (64, False)
        assert words(ring) == {"sq.khead": n, "sq.ktail": n, "cq.khead": n, "cq.ktail": n}

        # 2. Fill it, all 64 bytes. Nobody reads it yet.
        ops.prep_nop(sqe, user_data=1000 + n)
        assert sqe[0] == 0
        assert bytes(sqe[32:40]) == struct.pack("=Q", 1000 + n)
        assert words(ring)["sq.ktail"] == n

        # 3. Publish: the shared tail moves over it. From here the slot is the kernel's.
        assert ring.sq.flush() == 1
        assert ring.sq.published == n + 1
        assert words(ring) == {"sq.khead": n, "sq.ktail": n + 1, "cq.khead": n, "cq.ktail": n}

        # 4. Enter the kernel. It consumes the SQE (its head reaches our tail), does nothing, as asked, and
        #    posts a CQE (its tail moves).
        assert ring.submit() == 1
        assert words(ring) == {"sq.khead": n + 1, "sq.ktail": n + 1, "cq.khead": n, "cq.ktail": n + 1}
        assert (ring.sq.pending(), ring.sq.space_left(), ring.cq.ready()) == (0, 2, 1)

        # 5. Reap: copy the CQE, then move our head over it, and its slot is the kernel's again.
        assert ring.reap() == [(1000 + n, 0, 0)]
        assert words(ring) == {"sq.khead": n + 1, "sq.ktail": n + 1, "cq.khead": n + 1, "cq.ktail": n + 1}
        assert ring.reap() == []
    assert ring.statistics()[:6] == (0, 2, 0, 5, 5, 5)

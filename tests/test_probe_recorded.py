# SPDX-License-Identifier: MIT
"""The probe against the recorded answers of this kernel, if it is one of the recorded kernels."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rawuring import probe, survey

RECORDED = Path(__file__).resolve().parent / "data" / "kernels.json"


@pytest.mark.requires_io_uring
def test_recorded_kernel_then_the_probe_finds_the_same():
    kernels = json.loads(RECORDED.read_text(encoding="utf-8"))["kernels"].values()
    here = (os.uname().release, os.uname().machine)
    answers = next((each for each in kernels if (each["release"], each["machine"]) == here), None)
    if answers is None:
        pytest.skip(f"a record of this kernel: {' '.join(here)}")
    found = probe.capabilities(refresh=True).findings
    for kind in survey.KINDS:
        for each, value in survey.family(kind):
            answer = answers[kind]
            there = value < answer if isinstance(answer, int) else bool(value & int(answer, 16))
            assert found[each].supported in (there, None), each

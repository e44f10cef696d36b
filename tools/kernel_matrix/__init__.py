# SPDX-License-Identifier: MIT
"""Run the tests on other kernels and machines than this one: ``python3 -m tools.kernel_matrix``."""

"""What this machine can do: the fastest matrix multiply that torch makes of its cores."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version

import torch

from local_bench.records import Machine

SIZE, REPEATS = 1024, 12
PACKAGES = ("promptbake", "torch", "transformers", "peft")


def matmul_gflops(size: int = SIZE, repeats: int = REPEATS) -> float:
    """GFLOP/s of the fastest of several float32 multiplications of square matrices."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best / 1e9


def measure() -> Machine:
    """Measure this machine with the threads that torch takes by itself."""
    return Machine(
        cores=torch.get_num_threads(),
        processor=platform.machine(),
        matmul_gflops=round(matmul_gflops(), 1),
        versions={name: version(name) for name in PACKAGES},
    )

"""What this machine trains on, and in which precision. `python -m engine.run.hardware` prints its
devices as one JSON line.

Whether a processor is good at bf16 is measured, not looked up: with AMX it multiplies bf16 several
times faster than fp32, while the same processor with AMX hidden by a virtual machine takes twice as
long, though it lists AVX512-BF16."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

BF16_GAIN = 1.3
"""bf16 must multiply this many times faster than fp32 to be worth its lost digits on a CPU."""
MATRIX_SIZE = 768
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Device:
    """What trains run on. `memory_gb`: of the GPU, or of the machine. `bf16`: whether it computes
    well in bf16."""

    kind: Literal["cpu", "cuda"]
    name: str
    memory_gb: float
    threads: int
    bf16: bool


@dataclass(frozen=True)
class Precision:
    """`weights`: how the base weights are held. `autocast`: what matrix products are computed in,
    "" for `weights`.

    What is trained is always held in fp32 (the adapter, or all weights): an update of 1e-5 of a
    weight is lost in bf16."""

    name: str
    weights: Literal["float32", "bfloat16", "float16"]
    autocast: Literal["", "bf16", "fp16"]


def detect() -> Device:
    """Looks at the device, and runs a few small matrix products on a CPU (some 100 ms). Of several
    GPUs it is the one that this process has made its own, else the first."""
    import torch

    threads = thread_count()

    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(torch.cuda.current_device())
        good = torch.cuda.is_bf16_supported(including_emulation=False)
        return Device("cuda", facts.name, round(facts.total_memory / 2**30, 1), threads, good)

    torch.set_num_threads(threads)
    return Device(
        "cpu",
        processor_name(),
        round(machine_memory() / 2**30, 1),
        threads,
        bf16_gain() >= BF16_GAIN,
    )


def devices_seen() -> list[dict[str, Any]]:
    """Every device that a train could have here: a Device, and its `identity`, which is "cpu" or a
    GPU's UUID. In the order in which torch counts them."""
    import torch

    first = detect()
    if first.kind == "cpu":
        return [asdict(first) | {"identity": "cpu"}]

    found = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        memory_gb = round(facts.total_memory / 2**30, 1)
        device = replace(first, name=facts.name, memory_gb=memory_gb)
        found.append(asdict(device) | {"identity": str(facts.uuid)})

    return found


def precision_choose(wanted: str, device: Device, *, adapter: bool) -> Precision:
    """`wanted`: auto, bf16, fp16 or fp32. Full fine-tuning keeps fp32 weights and computes in the
    wanted precision."""
    name = _precision_for(device) if wanted == "auto" else wanted
    if name == "fp32":
        return Precision(name, "float32", "")

    half: Literal["bf16", "fp16"] = "bf16" if name == "bf16" else "fp16"
    if not adapter:
        return Precision(name, "float32", half)

    weights: Literal["bfloat16", "float16"] = "bfloat16" if half == "bf16" else "float16"
    # On a CPU autocast costs more than it saves here: peft casts the adapter's inputs by itself.
    return Precision(name, weights, half if device.kind == "cuda" else "")


def _precision_for(device: Device) -> str:
    """What "auto" means on this device."""
    if device.bf16:
        return "bf16"

    return "fp16" if device.kind == "cuda" else "fp32"


def thread_count() -> int:
    """Processors that this process may use; a container's quota counts too, and OMP_NUM_THREADS
    overrides both."""
    by_hand = os.environ.get("OMP_NUM_THREADS", "")
    if by_hand.isdigit() and int(by_hand) > 0:
        return int(by_hand)

    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))

    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return count


def bf16_gain() -> float:
    """How many times faster this CPU multiplies bf16 matrices than fp32 ones. The fastest of
    several tries counts, in one thread: other processes can only slow a try down, and of several
    threads that wait for each other hardly any try is undisturbed on a busy machine."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        left = torch.ones((MATRIX_SIZE, MATRIX_SIZE), dtype=dtype)
        right = torch.ones((MATRIX_SIZE, MATRIX_SIZE), dtype=dtype)
        tries = []

        for _ in range(8):
            start = time.perf_counter()
            left @ right
            tries.append(time.perf_counter() - start)

        return min(tries)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return seconds(torch.float32) / seconds(torch.bfloat16)
    finally:
        torch.set_num_threads(threads)


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine_memory() -> int:
    """Bytes of memory of the machine, or of the container where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return total


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step instead of returning it to the kernel.

    A step on a CPU allocates the same hundreds of megabytes again and again; fetching them anew,
    page by page, took 10% to 30% of its time. Only glibc has the switch; elsewhere nothing happens.
    """
    library = _c_library()
    if library is not None:
        library.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def freed_memory_return() -> None:
    """Give what keep_freed_memory has kept back to the kernel. To be called every so many steps:
    batches have different lengths, whose tensors leave gaps that fit none of the next ones, and a
    train of SmolLM2 that began with 2.1 GB held 5.1 GB after 120 steps, 1.1 GB of them in use."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)


def _c_library() -> Any:
    """glibc; None elsewhere."""
    if sys.platform != "linux":
        return None

    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") else None


if __name__ == "__main__":
    print(json.dumps(devices_seen()))

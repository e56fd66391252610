"""Where rows of a batch can lie end to end without padding, as far as that is known before a train."""

from __future__ import annotations


def kernel_obstacle(kind: str, *, half: bool, precision: str, head_dim: int) -> str:
    """Why a device cannot compute attention over rows that lie end to end, "" where it can. kind: "cpu"
    or "cuda"; half: whether it computes well in bf16; precision: bf16, fp16 or fp32."""
    if kind == "cpu":
        return ""

    if precision == "fp32":
        return "GPUs know attention without padding in half precision alone"

    if not half:
        return "attention without padding needs a GPU of the Ampere generation or later"

    if head_dim > 256 or head_dim % 8:
        return f"its attention heads of {head_dim} numbers have no such kernel"

    return ""

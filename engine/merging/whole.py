"""The merge in memory, in fp32: for models whose files hold other tensors than their layers do.

transformers converts such files while it loads them (experts one by one become a block), and back
while it saves. It takes four bytes of memory for each weight of the whole model."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.loading.pretrained import adapted_load
from engine.merging.layers import AdapterLayers
from engine.merging.stream import OutOfRange

LARGEST_FP16 = torch.finfo(torch.float16).max


def merge_whole(
    base: Path, adapter: Path, layers: AdapterLayers, out: Path, dtype: torch.dtype
) -> None:
    """Write the merged weights into the folder `out`. Raises OutOfRange."""
    scores = layers.task == "SEQ_CLS"
    model = adapted_load(base, adapter, scores=scores, dtype=torch.float32)
    merged = model.merge_and_unload(safe_merge=True)

    if dtype == torch.float16:
        for name, weight in merged.named_parameters():
            if float(weight.abs().max()) > LARGEST_FP16:
                raise OutOfRange(name)

    merged.to(dtype).save_pretrained(out)

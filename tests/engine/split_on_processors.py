"""A train whose model is split over processors: `python -m tests.engine.split_on_processors DIR`.

The platform splits models over GPUs alone: accelerate takes FSDP for a matter of GPUs, and makes
whole copies on processors, silently. Told otherwise it runs by gloo, so that all of our own code
is seen to work, and all of FSDP2 but what is NCCL's."""

import sys
from pathlib import Path
from typing import Any

from engine.run import session
from engine.run.main import run


def main() -> int:
    import accelerate
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType
    from torch.distributed._functional_collectives import AsyncCollectiveTensor
    from torch.distributed.tensor import DTensor

    begin, states = AcceleratorState.__init__, accelerate.Accelerator.get_state_dict

    def begin_split(self: Any, *arguments: Any, fsdp_plugin: Any = None, **more: Any) -> None:
        begin(self, *arguments, fsdp_plugin=fsdp_plugin, **more)
        if fsdp_plugin is not None:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    def whole(tensor: Any) -> Any:
        """Gathering takes what lies on a processor for gathered already."""
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        return tensor.wait() if isinstance(tensor, AsyncCollectiveTensor) else tensor

    def whole_states(self: Any, model: Any, **more: Any) -> Any:
        return {name: whole(tensor) for name, tensor in states(self, model, **more).items()}

    AcceleratorState.__init__ = begin_split
    accelerate.Accelerator.get_state_dict = whole_states
    session.sharding_check = lambda parameters, device_kind: None  # type: ignore[assignment]
    return run(Path(sys.argv[1]).absolute())


if __name__ == "__main__":
    sys.exit(main())

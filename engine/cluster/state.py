"""What a Ray cluster has: its nodes, and the devices that trains can have on them.

Where a node has GPUs, each GPU of the cluster is a device. Where none has, a device is a share of a
node's processors: so many as the smallest node has, unless it is said otherwise, which makes one
device a node where nodes are alike. A head that computes nothing (`ray start --num-cpus 0`) has no
device.

Imports neither Ray nor a training library: the platform's processes ask this every few seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.cluster.api import ApiRefused, ClusterAway, RayApi

__all__ = ["ClusterAway", "ClusterState", "Device", "Node", "cluster_state", "cpus_a_device"]

MOST_NODES = 10_000
GB = 2**30
# Ray names a GPU's kind in a resource of this name where the dashboard does not know better.
KIND_PREFIX = "accelerator_type:"


@dataclass(frozen=True)
class Gpu:
    """`memory_gb`: 0 where it is not known."""

    name: str
    memory_gb: float = 0.0


@dataclass(frozen=True)
class Node:
    """`id`: Ray's, which a node that comes back has anew; `cpus` and `gpus`: how many of them Ray
    gives out, which may be fewer than there are; `memory_gb`: of the machine, or some of it in its
    first seconds; `clock`: its Unix time when it last told of itself, None where it has not."""

    id: str
    ip: str
    hostname: str
    cpus: float
    gpus: int
    gpu_name: str
    memory_gb: float
    alive: bool
    is_head: bool
    gpu_list: tuple[Gpu, ...] = ()
    clock: float | None = None


@dataclass(frozen=True)
class Device:
    """One device: a worker of a train has one. `identity`: the same while the node is there;
    `threads`: processors that belong to it; `memory_gb`: the GPU's, or its share of the node's."""

    node_id: str
    ip: str
    hostname: str
    index: int
    identity: str
    kind: str
    name: str
    memory_gb: float
    threads: int


@dataclass(frozen=True)
class ClusterState:
    """`nodes`: alive or not; `devices`: of those that are alive, in a fixed order."""

    version: str
    nodes: list[Node] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if node.alive]


def cluster_state(
    address: str, token: str = "", timeout: float = 5.0, *, cpus_per_device: int = 0
) -> ClusterState:
    """Ask the cluster at `address`, such as http://127.0.0.1:8265. Takes three times `timeout`
    seconds at most. Raises ClusterAway with a sentence for people.

    cpus_per_device: of a cluster without GPUs; 0 for as many as its smallest node has."""
    api = RayApi(address, token, timeout)
    try:
        version = str(api.get("/api/version")["ray_version"])
        found = api.get("/api/v0/nodes", detail=1, limit=MOST_NODES)["data"]["result"]["result"]
        facts = _facts_by_node(api.get("/nodes", view="summary"))
        nodes = [_node(entry, facts.get(entry["node_id"], {})) for entry in found]
    except (ApiRefused, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ClusterAway(
            f"What answers at {address} does not answer as a Ray cluster does ({error})."
        ) from error

    nodes.sort(key=lambda node: (node.ip, node.id))
    return ClusterState(version, nodes, devices_of(nodes, cpus_per_device))


def _facts_by_node(answer: Any) -> dict[str, dict[str, Any]]:
    """What the dashboard knows of the machines, which a node that is new has not told yet."""
    summary = answer["data"]["summary"]
    return {entry.get("raylet", {}).get("nodeId", ""): entry for entry in summary}


def _node(entry: dict[str, Any], facts: dict[str, Any]) -> Node:
    resources = entry.get("resources_total") or {}
    listed = [
        Gpu(
            str(gpu.get("name", "")),
            round(float(gpu.get("memoryTotal") or 0) / 1024, 1),
        )
        for gpu in facts.get("gpus") or []
    ]
    kinds = [name.removeprefix(KIND_PREFIX) for name in resources if name.startswith(KIND_PREFIX)]
    # What Ray gives out of it until the machine has told how much it has.
    memory = facts.get("mem") or [resources.get("memory", 0)]
    clock = facts.get("now")

    return Node(
        id=str(entry["node_id"]),
        ip=str(entry.get("node_ip") or ""),
        hostname=str(facts.get("hostname") or entry.get("node_name") or entry.get("node_ip") or ""),
        cpus=float(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        gpu_name=next((gpu.name for gpu in listed), "") or next(iter(kinds), ""),
        memory_gb=round(float(memory[0]) / GB, 1),
        alive=entry.get("state") == "ALIVE",
        is_head=bool(entry.get("is_head_node")),
        gpu_list=tuple(listed),
        clock=float(clock) if clock is not None else None,
    )


def cpus_a_device(nodes: Iterable[Node], wanted: int = 0) -> int:
    """Processors that one device of a cluster without GPUs has; 0 where no node gives any."""
    counts = [int(node.cpus) for node in nodes if node.alive and node.cpus >= 1]
    if not counts:
        return 0

    return wanted if wanted > 0 else min(counts)


def devices_of(nodes: list[Node], cpus_per_device: int) -> list[Device]:
    """In the order of the nodes."""
    alive = [node for node in nodes if node.alive]
    if any(node.gpus for node in alive):
        return [_gpu_device(node, index) for node in alive for index in range(node.gpus)]

    share = cpus_a_device(alive, cpus_per_device)
    return [
        _cpu_device(node, index, share)
        for node in alive
        for index in range(int(node.cpus) // share if share else 0)
    ]


def _gpu_device(node: Node, index: int) -> Device:
    # Where Ray gives out fewer than there are, nobody outside knows which; mostly they are alike.
    gpu = node.gpu_list[index] if index < len(node.gpu_list) else Gpu(node.gpu_name or "GPU")
    threads = max(1, int(node.cpus) // node.gpus)
    return _device(node, index, "cuda", gpu.name or "GPU", gpu.memory_gb, threads)


def _cpu_device(node: Node, index: int, share: int) -> Device:
    name = f"{share} CPUs" if share > 1 else "1 CPU"
    memory_gb = round(node.memory_gb / (int(node.cpus) // share), 1)
    return _device(node, index, "cpu", name, memory_gb, share)


def _device(node: Node, index: int, kind: str, name: str, memory_gb: float, threads: int) -> Device:
    return Device(
        node_id=node.id,
        ip=node.ip,
        hostname=node.hostname,
        index=index,
        identity=f"{node.id}:{index}",
        kind=kind,
        name=name,
        memory_gb=memory_gb,
        threads=threads,
    )

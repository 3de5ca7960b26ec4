"""What crosses ranks, with gradient where it trains: the only place that calls torch.distributed.

Queries are gathered, scores exchanged, passages never sent: passages are 97% of a batch's embeddings. Each function
is the identity on a single process. Ranks have equal shares of a batch (the data module refuses others), so only their
numbers of tokens have to be told. The gradients are those of one process that holds the whole global batch:
nothing is scaled here, and the mean over ranks is the one that DDP takes of parameter gradients.
"""

import os
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from ifir_lightning.records import Embeddings

__all__ = ["record"]  # for torchrun, which then prints the exception of the rank that failed
T = TypeVar("T")
Store = dist.Store


@dataclass
class _Traffic:
    """What this process did here since it began."""

    collectives: int = 0
    bytes_sent: int = 0
    meetings: int = 0


_traffic = _Traffic()


def collectives_entered() -> int:
    """Collectives of this file that the process entered. All ranks enter the same: who entered fewer is behind."""
    return _traffic.collectives


def bytes_sent() -> int:
    """Bytes of tensors that the process sent in collectives of this file, from their shapes.

    An all-gather sends the rank's own tensor to each of the W - 1 others, an all-to-all what is theirs, an all-reduce
    2 (W - 1) / W of the tensor (as a ring, Patarasu and Yuan 2009).
    """
    return _traffic.bytes_sent


def all_reduce_bytes(num_bytes: int) -> int:
    """What each rank sends to all-reduce ``num_bytes``."""
    return 2 * (world_size() - 1) * num_bytes // world_size()


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's place among the ranks; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_objects(value: T) -> list[T]:
    """The value of every rank, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    _count(0)
    dist.all_gather_object(values, value)
    return values


def all_reduce_mean(values: Tensor) -> Tensor:
    """Mean over ranks, without gradient."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    _count(all_reduce_bytes(total.nbytes))
    dist.all_reduce(total)
    return total / world_size()


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks, in rank order, equally many of each; without gradient."""
    return rows if world_size() == 1 else torch.cat(_gather(rows))


def gather_embeddings(texts: Embeddings) -> Embeddings:
    """Embeddings of the texts of all ranks, in rank order, equally many of each; with gradient.

    A text may have any number of rows. Lengths go from CPU to CPU, so that no GPU has to be waited for.
    """
    if world_size() == 1:
        return texts
    lengths_B = torch.cat(_gather(texts.lengths_B, _cpus()))
    counts = lengths_B.view(world_size(), -1).sum(1).tolist()
    values_ND = _GatherRows.apply(texts.values_ND, counts)
    weights_N = None if texts.weights_N is None else _GatherRows.apply(texts.weights_N, counts)
    return replace(texts, lengths_B=lengths_B, values_ND=values_ND, weights_N=weights_N)


def exchange_scores(scores_QP: Tensor) -> Tensor:
    """Queries of all ranks x passages of this rank -> queries of this rank x passages of all ranks; with gradient.

    All in rank order; ranks have equally many queries, and equally many passages.
    """
    if world_size() == 1:
        return scores_QP
    blocks_WQP = _Exchange.apply(scores_QP).unflatten(0, (world_size(), -1))
    return blocks_WQP.transpose(0, 1).flatten(1)


def all_reduce_max(value: int) -> int:
    """The largest value of all ranks, over the network of their CPUs: no GPU has to be waited for."""
    if world_size() == 1:
        return value
    number = torch.tensor([value])
    _count(all_reduce_bytes(number.nbytes))
    dist.all_reduce(number, dist.ReduceOp.MAX, group=_cpus())
    return int(number)


def check_in(seconds: float) -> None:
    """Return once every rank has come here; before any collective, which would not say who is missing.

    Raises:
        TimeoutError: Some ranks did not within so many seconds; it lists them.
    """
    store, deadline = _get_default_store(), time.monotonic() + seconds
    _traffic.meetings += 1
    here = [f"ifir_lightning/here/{_traffic.meetings}/{number}" for number in range(world_size())]
    store.set(here[rank()], "")
    while not store.check(here):
        if time.monotonic() > deadline:
            missing = [number for number, key in enumerate(here) if not store.check([key])]
            raise TimeoutError(f"missing: rank {', '.join(map(str, missing))}")
        time.sleep(0.2)


def open_store(seconds: float) -> Store:
    """A store that all ranks share, beside the collectives: rank 0 serves it, on a free port of its host.

    Its operations raise after so many seconds without an answer.
    """
    host, time_out = os.environ["MASTER_ADDR"], timedelta(seconds=seconds)
    serves = rank() == 0
    served = dist.TCPStore(host, 0, is_master=True, timeout=time_out, wait_for_workers=False) if serves else None
    port = gather_objects(served.port if served else None)[0]
    assert port is not None
    return served or dist.TCPStore(host, port, is_master=False, timeout=time_out, wait_for_workers=False)


def total_norm(tensors: list[Tensor]) -> Tensor:
    """2-norm of all values of the tensors, which may be spread over ranks (FSDP2)."""
    norm = torch.nn.utils.get_total_norm(tensors)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone: the fault is not this rank's."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error).lower())


def shard(root: nn.Module, device: torch.device) -> None:
    """FSDP2: parameters spread over the ranks, and with them their gradients and the optimizer's state.

    They begin as those of rank 0, as under DDP. One group: the first forward pass of a step gathers all of them, the
    end of the backward pass averages gradients and frees what was gathered. Ranks encode different numbers of texts,
    chunks and layers in between, and a layer that all had to gather together would have them wait for ever.
    """
    for tensor in (*root.parameters(), *root.buffers()):
        dist.broadcast(tensor.data, 0)
    fully_shard(root, mesh=init_device_mesh(device.type, (world_size(),)), reshard_after_forward=False)


def gather_weights(root: nn.Module) -> None:
    """Have the whole weights of a sharded module until the next backward pass; called by all ranks before they encode
    each at its own pace.
    """
    if isinstance(root, FSDPModule):
        with torch.inference_mode(False), torch.no_grad():
            root.unshard()


def full_state(state: T) -> T:
    """A state with whole tensors on the CPU in place of sharded ones, gathered one at a time.

    All ranks call it; only rank 0 has the tensors, the others None.
    """
    return tree_map_only(DTensor, _whole, state)


def load_sharded(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's whole state where its parameters are sharded: each rank takes its part, nothing is sent."""
    numbers = (number for group in state["param_groups"] for number in group["params"])
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    parts = {
        number: {name: _part(value, parameter) for name, value in state["state"].get(number, {}).items()}
        for number, parameter in zip(numbers, parameters, strict=True)
    }
    optimizer.load_state_dict(state | {"state": {number: part for number, part in parts.items() if part}})


def _whole(tensor: DTensor) -> Tensor | None:
    gathered = tensor.full_tensor()
    return gathered.cpu() if rank() == 0 else None


def _part(value: Tensor, parameter: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:  # a count of steps
        return value
    place = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), *place, src_data_rank=None)


def _count(num_bytes: int) -> None:
    _traffic.collectives += 1
    _traffic.bytes_sent += num_bytes


def _cpus() -> dist.ProcessGroup:
    """All ranks as a group that talks over the network of their CPUs; all ask for it together."""
    return _cpu_group(dist.group.WORLD)


@cache
def _cpu_group(world: dist.ProcessGroup) -> dist.ProcessGroup:
    return dist.new_group(backend="gloo")


def _gather(values: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """The tensor of every rank; all of one shape."""
    gathered = [torch.empty_like(values) for _ in range(world_size())]
    _count((world_size() - 1) * values.nbytes)
    dist.all_gather(gathered, values, group=group)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        return torch.cat([part[:count] for part, count in zip(_gather(padded), counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Every rank's loss has a share in every row: a row's shares go to the rank that has it, and are added there.

        Half of what an all-reduce would send.
        """
        counts, own = ctx.counts, ctx.counts[rank()]
        shares = _all_to_all(gradients[0], counts, [own] * len(counts))
        return shares.unflatten(0, (len(counts), own)).sum(0), None


class _Exchange(torch.autograd.Function):
    """Block w of this rank's rows goes to rank w, and becomes its block of this rank; so do gradients, back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return _all_to_all(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _all_to_all(gradients[0])


def _all_to_all(rows: Tensor, sent: list[int] | None = None, received: list[int] | None = None) -> Tensor:
    """Rows of this rank to all ranks, and theirs to this one; equally many of each unless it is said how many."""
    output = torch.empty_like(rows) if received is None else rows.new_empty(sum(received), *rows.shape[1:])
    own = len(rows) // world_size() if sent is None else sent[rank()]
    _count((len(rows) - own) * rows[:1].nbytes)
    dist.all_to_all_single(output, rows.contiguous(), received, sent)
    return output

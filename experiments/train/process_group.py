"""The processes that train one network together, started by torchrun. A process alone needs none of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, Subset

from experiments.common import distributed
from stg_pyg.errors import InputError
from stg_pyg.learning.steps import Part, batches

T = TypeVar("T")


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started, if there are several, and waits for all of them at the end.

    They talk by gloo, about what is on GPUs by NCCL. When torchrun is killed, they end, too.

    Raises:
        InputError: the variables by which the processes find each other are missing, or one of them has ended.
    """
    if distributed.world().size == 1:
        yield
        return
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        raise InputError("WORLD_SIZE is set but MASTER_ADDR or MASTER_PORT is not; start with torchrun, or unset it")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        distributed.end_with_parent(os.getppid())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        yield
        dist.barrier()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise InputError(
            "another process has ended or is not reached; see its message, then start all again with --resume "
            f"({str(error).splitlines()[0]})"
        ) from error
    dist.destroy_process_group()


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes files and talks."""
    return rank() == 0


def agree(value: object, path: Path | str) -> None:
    """Waits for all processes.

    Raises:
        InputError: they have read different values from ``path``.
    """
    if size() == 1:
        return
    values: list[object] = [None] * size()
    dist.all_gather_object(values, value)
    if any(other != values[0] for other in values):
        raise InputError(f"{path}: not the same for all processes ({values}); --out must be a folder that all share")


def shares(count: int, parts: int) -> list[slice]:
    """``count`` samples in ``parts`` runs whose lengths differ by one at most.

    Raises:
        InputError: there are fewer samples than parts.
    """
    if count < parts:
        raise InputError(
            f"a batch of {count} has too few samples for {parts} parts; take fewer processes or a smaller --accumulate"
        )
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def own_parts(dataset: Dataset[T], batch_size: int, workers: int, accumulate: int = 1) -> Iterator[list[Part[T]]]:
    """What this process takes of each batch of a data set of whole batches: ``accumulate`` parts, in order.

    A batch is the same for any number of processes. The processes draw the batches in turn, each for all, so that
    drawing, too, is shared by them.
    """
    slices = shares(batch_size, size() * accumulate)
    sizes = [(part.stop - part.start) / batch_size for part in slices[rank() * accumulate :][:accumulate]]
    turns = range(rank(), len(dataset), size())  # type: ignore[arg-type]
    drawn = batches(Subset(dataset, turns), workers)
    for position in range(len(dataset)):  # type: ignore[arg-type]
        parts: list[T] = []
        if position % size() == rank():
            batch = next(drawn)
            parts = [_cut(batch, part) for part in slices]
        if size() > 1:
            received: list[Any] = [None]
            groups = [parts[i * accumulate :][:accumulate] for i in range(size())]
            dist.scatter_object_list(received, groups, src=position % size())
            parts = received[0]
        yield [Part(*pair) for pair in zip(sizes, parts, strict=True)]


def _cut(batch: Any, part: slice) -> Any:
    """A run of the samples of a batch: some tensors with all samples each, or a list of samples."""
    if not isinstance(batch[0], Tensor):
        return batch[part]
    if part == slice(0, len(batch[0])):
        return batch
    return tuple(column[part].clone() for column in batch)  # a view would be sent with all that it is a view of


def total(values: dict[str, float]) -> dict[str, float]:
    """The sum over the processes of each value; the names are the same everywhere."""
    if size() == 1:
        return values
    sums = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(sums)
    return dict(zip(values, sums.tolist(), strict=True))


def replicated(net: nn.Module) -> nn.Module:
    """The network whose ``backward`` leaves the mean of the gradients of all processes, weights as in the first one.

    Batch normalisation in training takes the statistics of the samples of all processes: the modules of ``net`` are
    changed in place to ones that do, with the same parameters and names.
    """
    if size() == 1:
        return net
    if next(net.parameters()).device.type == "cuda":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    else:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = SharedBatchNorm
    return DistributedDataParallel(net)


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces every gradient by its sum over the processes; one that no process has stays None."""
    if size() == 1:
        return
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    used = own[0].new_tensor([p.grad is not None for p in parameters])
    flat = torch.cat([*(grad.flatten() for grad in own), used])
    dist.all_reduce(flat)
    *sums, used = flat.split([*(grad.numel() for grad in own), len(parameters)])
    for parameter, grad, count in zip(parameters, sums, used.tolist(), strict=True):
        parameter.grad = grad.view_as(parameter).clone() if count else None


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    backward = forward  # type: ignore[assignment]


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the samples of all processes on the CPU, where ``nn.SyncBatchNorm`` does not run."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or size() == 1:
            return super().forward(x)
        values = x.to(self.weight.dtype)
        ones = values.new_ones(1) * (values.numel() // values.shape[1])
        sums = _SumOverProcesses.apply(torch.cat([values.sum(dim=(0, 2, 3)), ones]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum(dim=(0, 2, 3))) / count
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

"""A GPU on a machine without one: tensors that claim to be on it while their numbers are on the CPU.

Under :class:`FakeCuda` everything on ``cuda`` is a :class:`CudaTensor`. What a GPU refuses raises (tensors of two
devices in one operation, an operation without a kernel for it), what makes the processor wait for it is counted, and
the results are those of the CPU.
"""

import traceback
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

CUDA = torch.device("cuda", 0)
READS = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "bincount"}
READS |= {"equal", "is_nonzero"}
OF_ANY_DEVICE = {"copy_", "_to_copy"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class CudaTensor(torch.Tensor):
    """Says ``cuda:0`` when it is asked for its device; ``held`` has the numbers."""

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    @staticmethod
    def __new__(cls, held):
        # To PyTorch's core it is on `meta`, as autograd would look for threads and streams of a GPU.
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device="meta"
        )

    def __init__(self, held):
        self.held = held

    def __deepcopy__(self, memo):
        copy = CudaTensor(self.held.clone())
        if isinstance(self, nn.Parameter):
            copy = nn.Parameter(copy, self.requires_grad)
        memo[id(self)] = copy
        return copy

    def tolist(self):
        return self.cpu().tolist()

    def new_tensor(self, data, dtype=None):
        return torch.tensor(data, dtype=dtype or self.dtype, device=CUDA)

    def __getitem__(self, index):  # a list would become a tensor on `meta`, which has no numbers
        return super().__getitem__(
            tree_map_only(list, lambda x: torch.tensor(x, device=CUDA), index, lambda x: isinstance(x, list))
        )

    def __repr__(self):
        return f"CudaTensor({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of FakeCuda")


class FakeCuda(TorchDispatchMode):
    """Runs what is on ``cuda``, and counts by place in the library what waits for it."""

    def __init__(self):
        super().__init__()
        # As PyTorch's own fake tensors do, so that a device without a driver can be named.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE
        self.places = Counter()

    def __enter__(self):
        torch._C._ensureCUDADeviceGuardSet()
        torch._C._set_only_lift_cpu_tensors(True)
        # The generator of the GPU is that of the processor, which is seeded beside it.
        calls = {name: lambda *_: None for name in ("get_rng_state", "set_rng_state", "manual_seed")}
        self._generator = mock.patch.multiple(torch.cuda, **calls, device=nullcontext)
        self._generator.start()
        return super().__enter__()

    def __exit__(self, *error):
        self._generator.stop()
        torch._C._set_only_lift_cpu_tensors(False)
        return super().__exit__(*error)

    @property
    def count(self):
        return sum(self.places.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name.partition("::")[2]
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        assert all(isinstance(x, CudaTensor) or not x.is_meta for x in tensors), f"{func} sees no numbers"
        on_cuda = any(isinstance(x, CudaTensor) for x in tensors)
        wanted = kwargs.get("device")
        if on_cuda:
            self._check(func, name, tensors, args)
            self._look(name, args, kwargs)
        if wanted is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
            on_cuda = torch.device(wanted).type != "cpu"
        elif name == "copy_":
            on_cuda = isinstance(args[0], CudaTensor)
        if name == "_fused_sdp_choice":
            return 0  # the kernel that consists of other operations
        held_args, held_kwargs = tree_map_only(CudaTensor, lambda x: x.held, (args, kwargs))
        result = func(*held_args, **held_kwargs)
        if not on_cuda:
            return result
        known = {id(x.held): x for x in tensors if isinstance(x, CudaTensor)}  # those that were written to
        return tree_map_only(torch.Tensor, lambda x: known[id(x)] if id(x) in known else CudaTensor(x), result)

    def _check(self, func, name, tensors, args):
        if name in INDEXING and isinstance(args[0], CudaTensor):
            tensors = [args[0], *(x for x in args[2:3] if isinstance(x, torch.Tensor))]  # indices may be elsewhere
        strangers = [x for x in tensors if not isinstance(x, CudaTensor) and x.dim() > 0]
        if strangers and name not in OF_ANY_DEVICE:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cuda:0 and cpu")

    def _look(self, name, args, kwargs):
        reads = name in READS or (name == "repeat_interleave" and kwargs.get("output_size") is None)
        if name == "_to_copy":
            reads = torch.device(kwargs.get("device") or CUDA).type == "cpu"
        elif name == "copy_":
            reads = not isinstance(args[0], CudaTensor)
        elif name in INDEXING:
            reads = any(x is not None and x.dtype == torch.bool for x in args[1])
        if reads:
            own = [f for f in traceback.extract_stack() if "/stg_pyg/" in f.filename] or traceback.extract_stack()[-4:]
            self.places[f"{name} {Path(own[-1].filename).name}:{own[-1].lineno}"] += 1

"""A device that is not there: tensors that say they live on it, compute on the CPU, and refuse to mix.

Inside `PretendDevice()` the name "lazy", a device of torch that no build here has, works as a GPU would:
what is sent there stays there, an operation on tensors of two devices is an error,
numpy cannot look inside, and every operation is counted by device.
As on Apple's GPUs, there are no numbers of 64 bits; `PretendDevice(wide=True)` has them, as CUDA has.
"""
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from vision_unlearning.dtypes import has_float64

NAME = "lazy"
DEVICE = torch.device(NAME)
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}
# a GPU takes indices from the CPU, and nothing else
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
PICKS = {aten.clone.default, aten.cat.default, aten.stack.default, aten._local_scalar_dense.default}
# the work that a device is there for
WORK = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}


class Elsewhere(torch.Tensor):
    "A tensor that says it is on the device; its numbers are in `here`."

    @staticmethod
    def __new__(cls, here):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
            requires_grad=here.requires_grad,
        )

    def __init__(self, here): self.here = here
    def __repr__(self): return f"Elsewhere({self.here})"
    def tolist(self): return self.here.tolist()
    def __tensor_flatten__(self): return ["here"], None

    @staticmethod
    def __tensor_unflatten__(inner, about, size, stride): return Elsewhere(inner["here"])

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return PretendDevice.run(function, args, kwargs or {})


def is_there(value): return isinstance(value, Elsewhere)
def bring(value): return value.here if is_there(value) else value
def send(value): return Elsewhere(value) if isinstance(value, torch.Tensor) and not is_there(value) else value


class PretendDevice(TorchDispatchMode):
    "For the length of a block, the device is there; `counts` holds (operation, device) of all that was done."
    counts = Counter()
    numbers = Counter()  # by device: how many numbers were read by what computes
    wide = False  # whether it has numbers of 64 bits

    def __init__(self, wide: bool = False):
        super().__init__()
        self.asked = wide

    def __enter__(self):
        PretendDevice.counts, PretendDevice.numbers, PretendDevice.wide = Counter(), Counter(), self.asked
        has_float64.cache_clear()
        # `torch.tensor(..., device=NAME)` makes its numbers on the CPU, and then asks for a copy
        self.lifting = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(self.lifting)
        PretendDevice.wide = False
        has_float64.cache_clear()
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.run(function, args, kwargs or {})

    @classmethod
    def run(cls, function, args, kwargs):
        "One operation, where its tensors are."
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there, asked = [x for x in leaves if is_there(x)], kwargs.get("device")
        target = (
            (asked is not None and torch.device(asked).type == NAME) if asked is not None else bool(there)
        )
        if asked is not None and torch.device(asked).type == NAME:
            if kwargs.get("generator") is not None:
                raise RuntimeError(f"Expected a {NAME!r} generator, found 'cpu'")
            kwargs = {**kwargs, "device": torch.device("cpu")}
        cls.check(function, leaves, there)
        cls.counts[function.overloadpacket.__name__, NAME if there or target else "cpu"] += 1
        if cls.computes(function): cls.numbers[NAME if there else "cpu"] += sum(x.numel() for x in leaves)
        if function is aten._fused_sdp_choice.default:
            return 0  # plain products, as on a device it does not know
        found = function(*tree_map(bring, args), **tree_map(bring, kwargs))
        return cls.answer(function, args, found, target)

    @staticmethod
    def computes(function):
        "Whether an operation makes new numbers, and does not only move, view or pick some."
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        return function not in MOVES | INDEXED and not views and function not in PICKS

    @staticmethod
    def check(function, leaves, there):
        "Refuse tensors of two devices."
        others = [x for x in leaves if not is_there(x) and x.ndim]
        if not there or not others or function in MOVES: return
        if function in INDEXED and is_there(leaves[0]): return
        raise RuntimeError(f"{function}: expected all tensors to be on the same device, found {NAME} and cpu")

    @staticmethod
    def answer(function, args, found, target):
        "What an operation returns; what worked in place returns the tensor itself."
        if function._schema.name.endswith("_") and isinstance(args[0], torch.Tensor): return args[0]
        long = any(getattr(x, "dtype", None) == torch.float64 for x in tree_leaves(found))
        if target and long and not PretendDevice.wide:
            raise TypeError(f"Cannot convert a {NAME} Tensor to float64 dtype: the device has none")
        return tree_map(send, found) if target else found


def work_done() -> dict[str, int]:
    "How many products and convolutions were done since the block began, by device."
    done = Counter()
    for (name, where), count in PretendDevice.counts.items():
        if name in WORK: done[where] += count
    return dict(done)


def share_there() -> float:
    "Which share of all numbers was read on the device since the block began, 0..1."
    return PretendDevice.numbers[NAME]/max(1, PretendDevice.numbers.total())

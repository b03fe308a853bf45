"""What a pickle of tensors says, read without running any of it.

`torch.load(weights_only=True)` calls a few dozen functions with arguments from the file. Some of them reserve as much
memory as the file asks for, and up to torch 2.5 some could be made to run code. So a pickle is walked here first, one
opcode at a time, with records in place of tensors: it may say what a state dict of plain tensors says, and no more.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from damlpips.files import shown

# what torch.save has always used
PROTOCOL = 2
# 250 bytes a tensor: room for ten times the tensors of the largest network of the table
LARGEST = 1 << 20
# torch's own limit for most operations
MOST_DIMENSIONS = 64
# characters of a name that an error quotes
MOST_SHOWN = 80

DTYPES = {
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
}


@dataclass(frozen=True, eq=False)
class Storage:
    """A run of `numel` numbers, all or a part of the `root_numel` that the file holds under `key`."""

    key: str
    dtype: torch.dtype
    numel: int
    root_numel: int


@dataclass(eq=False)
class Tensor:
    """A view of a storage; `storage` is None until a state fills it in (torch 0.1 saved tensors so)."""

    storage: Storage | None = None
    shape: tuple[int, ...] = ()
    # a Parameter's state is another than a tensor's
    is_parameter: bool = False


@dataclass(frozen=True)
class Global:
    """The name of a class or a function: here it stands for nothing but itself."""

    module: str
    name: str


@dataclass
class Walk:
    """A pickle's value, and the storages that it speaks of, by key."""

    value: Any = None
    storages: dict[str, Storage] = field(default_factory=dict)


def refuse(message: str) -> NoReturn:
    """Raise the error for a pickle that says something else."""
    raise pickle.UnpicklingError(message)


def walk(data: io.BytesIO) -> Walk:
    """Walk one pickle from the position of `data`; leave the position behind it.

    Raises:
        UnpicklingError: the pickle is damaged, or says more than which tensors there are and where.
    """
    try:
        return _Machine().run(data)
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged pickle breaks the walk wherever it likes
        raise pickle.UnpicklingError(f"damaged pickle ({type(error).__name__}: {error})") from error


class _Machine:
    """Pickle's stack machine, for the opcodes that `torch.save` writes."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.found = Walk()

    def run(self, data: io.BytesIO) -> Walk:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                (self.found.value,) = self.stack
                return self.found
            if opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name]())
            elif opcode.name in LITERALS:
                self.stack.append(argument)
            elif opcode.name in STEPS:
                STEPS[opcode.name](self, argument)
            else:
                refuse(f"pickle opcode {opcode.name}")
        raise AssertionError("genops ends with STOP or raises")

    def protocol(self, number: int) -> None:
        if number != PROTOCOL:
            refuse(f"pickle protocol {number}")

    def mark(self, _: None) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def get(self, key: int) -> None:
        self.stack.append(self.memo[key])

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def find(self, name: str) -> None:
        module, _, attribute = name.partition(" ")
        known = Global(module, attribute)
        if known not in CALLS and not _is_class(known, "Storage"):
            refuse(f"holds {shown(f'{module}.{attribute}', MOST_SHOWN)}")
        self.stack.append(known)

    def last(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def push_tuple(self, items: Sequence[Any]) -> None:
        self.stack.append(tuple(items))

    def extend(self, items: Sequence[Any]) -> None:
        if type(self.stack[-1]) is not list:
            refuse("appends to something else than a list")
        self.stack[-1].extend(items)

    def set_items(self, items: Sequence[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            refuse("sets items of something else than a dict")
        self.stack[-1].update(_pairs(list(zip(items[::2], items[1::2], strict=True))))

    def set_item(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items((key, value))

    def call(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Global or function not in CALLS or type(arguments) is not tuple:
            refuse("calls something else than what makes a tensor")
        self.stack.append(CALLS[function](*arguments))

    def build(self, _: None) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is dict and type(state) is dict and set(state) <= {"_metadata"}:
            return  # the versions of the modules
        if type(target) is not Tensor or type(state) is not tuple:
            refuse("gives a state to something else than a tensor")
        if len(state) == 4 and not target.is_parameter and target.storage is None:
            made = _tensor(*state)
        elif len(state) == 5 and target.is_parameter and target.storage is None:
            made, _, hooks, _, _ = state
            _check_hooks(hooks)
        elif len(state) == 3 and target.is_parameter:
            _check_hooks(state[2])
            return
        else:
            refuse("gives a tensor a state of another form")
        if type(made) is not Tensor or made.storage is None:
            refuse("a parameter of something else than a tensor")
        target.storage, target.shape = made.storage, made.shape

    def persistent(self, _: None) -> None:
        identifier = self.stack.pop()
        if type(identifier) is not tuple or len(identifier) not in (5, 6) or identifier[0] != "storage":
            refuse("refers to something else than a storage")
        _, kind, key, location, numel, *view = identifier
        if not (type(kind) is Global and _is_class(kind, "Storage") and type(key) is type(location) is str):
            refuse("a storage of an unknown kind")
        root = Storage(key, DTYPES[kind.name.removesuffix("Storage")], _count(numel), _count(numel))
        known = self.found.storages.setdefault(key, root)
        if (known.dtype, known.root_numel) != (root.dtype, root.root_numel):
            refuse(f"storage {shown(key, MOST_SHOWN)} has two lengths or kinds")
        if view and view[0] is not None:
            _, offset, length = view[0]
            if _count(offset) + _count(length) > root.numel:
                refuse(f"a view beyond the end of storage {shown(key, MOST_SHOWN)}")
            root = Storage(key, root.dtype, length, root.numel)
        self.stack.append(root)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        refuse("a length that is not a whole number from 0 on")
    return value


def _pairs(items: Sequence[Any]) -> dict[Any, Any]:
    for key, _ in items:
        # the hash of nested tuples takes time exponential in their depth
        if type(key) not in (str, int):
            refuse(f"a dict with keys of type {type(key).__name__}")
    return dict(items)


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    # Python 2 wrote an OrderedDict as a list of pairs
    if type(items) not in (list, tuple) or not all(type(item) in (list, tuple) and len(item) == 2 for item in items):
        refuse("an OrderedDict of something else than pairs")
    return _pairs(items)


def _check_hooks(hooks: Any) -> None:
    if hooks is not None and not (type(hooks) is dict and not hooks):
        refuse("holds hooks")


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, requires_grad: Any = False, hooks: Any = None
) -> Tensor:
    if type(storage) is not Storage or type(shape) is not tuple or type(stride) is not tuple:
        refuse("a tensor without a storage, a shape and strides")
    if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS or type(requires_grad) is not bool:
        refuse("a tensor with a shape that does not match its strides")
    _check_hooks(hooks)
    last = _count(offset) + sum((_count(n) - 1) * _count(s) for n, s in zip(shape, stride, strict=True))
    if (0 if 0 in shape else last + 1) > storage.numel:
        refuse(f"a tensor of shape {shape} beyond the end of its storage of {storage.numel} numbers")
    return Tensor(storage, shape)


def _empty_tensor() -> Tensor:
    return Tensor()


def _parameter(tensor: Any = None, requires_grad: Any = True, hooks: Any = None) -> Tensor:
    if tensor is None:
        return Tensor(is_parameter=True)
    if type(tensor) is not Tensor or tensor.storage is None or type(requires_grad) is not bool:
        refuse("a parameter of something else than a tensor")
    _check_hooks(hooks)
    return Tensor(tensor.storage, tensor.shape, is_parameter=True)


def _is_class(name: Global, kind: str) -> bool:
    return name.module in ("torch", "torch.cuda") and name.name in {f"{dtype}{kind}" for dtype in DTYPES}


CALLS: dict[Global, Callable[..., Any]] = {
    Global("collections", "OrderedDict"): _ordered_dict,
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch.nn.parameter", "Parameter"): _parameter,
    **{Global(module, f"{dtype}Tensor"): _empty_tensor for module in ("torch", "torch.cuda") for dtype in DTYPES},
}

CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.protocol,
    "MARK": _Machine.mark,
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    "GLOBAL": _Machine.find,
    "TUPLE": lambda machine, _: machine.push_tuple(machine.pop_mark()),
    "TUPLE1": lambda machine, _: machine.push_tuple(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.push_tuple(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.push_tuple(machine.last(3)),
    "APPEND": lambda machine, _: machine.extend((machine.stack.pop(),)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}

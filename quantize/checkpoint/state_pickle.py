"""The pickle of a state dictionary, read by the few instructions that torch writes one with; nothing in it runs.

Python's own unpickler builds whatever it is told: a key that is a tuple of tuples of tuples is hashed for ever. This
one knows texts, numbers, tuples, lists, dictionaries with texts for keys, and calls of what it is given by name.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from planner.errors import UsageError
from planner.files.escape import shown

_MAX_INSTRUCTIONS: Final = 400_000
"""Llama-2-70B's list in AWQ has 58,600; a second's work."""
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES: Final = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING")
)
"""Instructions that push what is written beside them."""
_EMPTY: Final[Mapping[str, Callable[[], Any]]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
Function = Callable[..., Any]


def read_state(
    text: bytes, named: Mapping[tuple[str, str], Any], functions: tuple[Function, ...], refer: Function
) -> Any:
    """What a pickle describes.

    Args:
        text: the pickle.
        named: what stands for the objects that it names, by module and name.
        functions: those of `named` that it may call; the others are values.
        refer: makes what a persistent id stands for.

    Raises:
        UsageError: it names something else, or has instructions that no state dictionary needs.
        Exception: it is broken, in as many ways as Python has exceptions.
    """
    machine = _Machine(named, functions, refer)
    for number, (opcode, argument, _) in enumerate(pickletools.genops(text)):
        if number > _MAX_INSTRUCTIONS:
            raise UsageError("its list of tensors is too long")
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise EOFError


@dataclass(slots=True)
class _Machine:
    """The stack machine of the pickle format (`pickletools`), as far as it is needed."""

    named: Mapping[tuple[str, str], Any]
    functions: tuple[Function, ...]
    refer: Function
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def step(self, name: str, argument: Any) -> None:
        """One instruction."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in _TUPLES:
            size = _TUPLES[name]
            stack[-size:] = [tuple(stack[-size:])]
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        else:
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        """The instructions that make something of what lies on the stack."""
        stack = self.stack
        if name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._set([key, value])
        elif name == "SETITEMS":
            self._set(self._since_mark())
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "APPENDS":
            items = self._since_mark()
            stack[-1].extend(items)
        elif name == "GLOBAL":
            stack.append(self._found(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            inner, module = stack.pop(), stack.pop()
            stack.append(self._found(module, inner))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._called(function, arguments))
        elif name == "BINPERSID":
            stack.append(self.refer(*stack.pop()))
        elif name == "BUILD":
            stack.pop()  # a dictionary's `_metadata`, which describes no tensor
        elif name not in ("PROTO", "FRAME"):
            raise UsageError(f"its list of tensors has the instruction {name}, which no weights need")

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _found(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in self.named:
            what = shown(f"{module}.{name}") if isinstance(module, str) and isinstance(name, str) else "no name"
            raise UsageError(f"its list of tensors asks for {what}, which no weights need")
        return self.named[module, name]

    def _set(self, items: list[Any]) -> None:
        keys = items[::2]
        if not all(isinstance(key, str) for key in keys):
            raise UsageError("its list of tensors names something by what is no text")
        self.stack[-1].update(zip(keys, items[1::2], strict=True))

    def _called(self, function: Any, arguments: Any) -> Any:
        if not any(function is known for known in self.functions):
            raise UsageError("its list of tensors calls something that no weights need")
        return function(*arguments)

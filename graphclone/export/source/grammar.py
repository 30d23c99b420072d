"""Is a module one that graphclone could have written? Then running it computes with tensors, and does nothing else.

A hash that lies beside a module says only that nobody changed one of the two. So the module itself is read: its helpers have to be those of
this version of graphclone, word for word, and all else has to be of the few forms that are listed here. Three rules bear the others:

- a name is a variable of its own method, or listed here: none leads to Python's builtins;
- what is called is named where it is called, an op, a function of numbers, a class of the module, a part that its own class has made, the
  block of a loop: no value is ever called;
- an attribute is a part of a module, or a tensor's shape, dtype or device.
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from graphclone.export import grouped
from graphclone.export.source import template

_FUNCTIONS = frozenset({"expect", "float", "complex", "grouped_mm", "slice", "max", "min", "round", "abs"})
_MAKERS = frozenset({"place", "parameter", "buffer", "tie"})
_METHODS = frozenset({"__init__", "forward", "_eval", "_train", "train"})
_OF_MODULES = frozenset({"super().__init__()", "super().train(False)", "self.eval()"})
_OF_TENSORS = frozenset({"shape", "dtype", "device"})
_TORCH = frozenset({"promote_types", "device", "_assert"})  # and what works on sizes
_OPERATOR = frozenset({"neg", "pos", "not_", "invert", "lshift", "rshift", "xor"})
_FILES = frozenset({"from_file", "_save", "save", "load"})  # no op of torch's reads or writes a file but these
_VALUES = (torch.dtype, torch.layout, torch.memory_format)
_MODULE = nn.Module()  # what it has, every module has: no part of one is called so


def foreign(text: str) -> str | None:
    """The first place of a module that graphclone would not write, as `line 12: …`; None if there is none."""
    try:
        for strange in _module(ast.parse(text).body):
            return f"line {getattr(strange, 'lineno', '?')}: {ast.unparse(strange).splitlines()[0][:80]}"
    except (SyntaxError, ValueError) as error:
        return f"it is no Python: {error}"
    except (RecursionError, MemoryError):
        return "it is nested too deeply"
    return None


def _module(body: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    """The statements of a module that are not to be run, or what of them is not."""
    parts = [template.PARTS, template.TIE, template.EXPECT, template.OUTPUT, grouped.HELPER]
    parts.append(template.LOAD.format(weights="model.safetensors"))
    helpers = [n for each in (*parts, *template.IMPORTS, "aten = torch.ops.aten", "TIES = set()") for n in ast.parse(each).body]
    own = {ast.dump(node) for node in helpers}
    rest = [node for node in body if ast.dump(node) not in own]
    classes = frozenset(_defined(rest)) - frozenset(_defined(helpers))
    for node in rest:
        match node:
            case ast.Expr(ast.Constant()):
                continue
            case ast.Assign([ast.Name("TIES")], ast.Set(names)) if _constant(*names):
                continue
            case ast.Assign([ast.Name(name)], ast.Call(ast.Name("namedtuple"), args, [])) if name in classes and _constant(*args):
                continue
            case ast.ClassDef(name, [ast.Name("Output")], [], [ast.Assign([ast.Name("fields")], value)], [ast.Name("output")]):
                if name in classes and _constant(value) and not _generic(node):
                    continue
            case ast.ClassDef(name, [ast.Name("Parts")], [], methods, []) if name in classes and not _generic(node):
                if len({getattr(method, "name", None) for method in methods}) == len(methods):
                    for method in methods:
                        yield from _method(method, classes, frozenset(_made(methods)))
                    continue
        yield node


def _defined(nodes: Sequence[ast.stmt]) -> Iterator[str]:
    """The names that statements of a module give a meaning to; none of Python's own is to have another."""
    for node in nodes:
        match node:
            case ast.ClassDef(name) | ast.FunctionDef(name) | ast.Assign([ast.Name(name)]):
                found = [name]
            case ast.Import(names) | ast.ImportFrom(_, names):
                found = [each.asname or each.name for each in names]
            case _:
                found = []
        yield from (name for name in found if not name.startswith("__") and not hasattr(builtins, name))


def _generic(node: ast.AST) -> bool:
    return bool(getattr(node, "type_params", None))  # Python 3.12 has them


def _made(methods: Sequence[ast.AST]) -> Iterator[str]:
    """Where the modules are that a class makes, by their dotted names: all of them, whatever else happens while it is made."""
    for node in (
        each for method in methods if isinstance(method, ast.FunctionDef) and method.name == "__init__" for each in method.body
    ):
        match node:
            case ast.Expr(ast.Call(ast.Name("place"), [ast.Name("self"), ast.Constant(str(name)), ast.Call()])):
                yield name
            case ast.For(
                ast.Name(part), ast.Tuple(names), [ast.Expr(ast.Call(ast.Name("place"), [ast.Name("self"), path, ast.Call()]))]
            ):
                match path:
                    case ast.BinOp(ast.Constant(str(container)), ast.Add(), ast.Name(last)) if last == part:
                        yield from (container + str(each.value) for each in names if isinstance(each, ast.Constant))


def _method(method: ast.AST, classes: frozenset[str], made: frozenset[str]) -> Iterator[ast.AST]:
    """What of a method is not to be run."""
    match method:
        case ast.FunctionDef(
            name, ast.arguments([], [ast.arg("self"), *args], None, named, more, None, defaults), body, [], None
        ):
            local = {each.arg for each in (*args, *named)} | set(_stored(body))
            plain = not _generic(method) and not any(each.annotation for each in (*method.args.args, *named))
            if plain and name in _METHODS and "self" not in local:
                yield from (each for each in (*defaults, *more) if each is not None and not _default(each))
                making = name == "__init__"  # which calls nothing of what it makes, and comes to its end
                yield from (each for each in ast.walk(method) if making and isinstance(each, ast.Return))
                yield from _Method(frozenset(local), classes - local, frozenset() if making else made).statements(body)
                return
    yield method


def _stored(body: Sequence[ast.stmt]) -> Iterator[str]:
    """The variables of a method, but for the block of a loop."""
    for node in (each for statement in body for each in ast.walk(statement)):
        match node:
            case ast.Assign(targets):
                yield from (each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name))
            case ast.For(ast.Name(name)) if not _over_blocks(node):
                yield name


def _over_blocks(node: ast.For) -> bool:
    """Whether a loop is over the modules that are in one."""
    match node:
        case ast.For(ast.Name("block"), ast.Call(ast.Attribute(container, "children"), [], [])):
            return bool(_path(container))
    return False


@dataclass(frozen=True)
class _Method:
    """The names that a method knows: its variables and arguments, the `classes` of the module that these do not hide, and where the modules
    are that its own class has `made`. What of a node is not to be run is what `statements` and `values` find."""

    local: frozenset[str]
    classes: frozenset[str]
    made: frozenset[str]

    def statements(self, body: Sequence[ast.stmt], block: bool = False) -> Iterator[ast.AST]:
        """`block`: whether they are those of a loop over blocks."""
        for node in body:
            match node:
                case ast.Return(None):
                    pass
                case ast.If(ast.Name("mode"), [ast.Raise(ast.Call(ast.Name("RuntimeError"), [ast.Constant()], []), None)], []):
                    pass
                case ast.Expr(value) | ast.Return(value) if (
                    value and ast.unparse(value) in _OF_MODULES and "super" not in self.local
                ):
                    pass
                case ast.Expr(ast.Call(ast.Name(maker), [ast.Name("self"), *args], keywords)) if maker in _MAKERS - self.local:
                    yield from self.values(*args, *(each.value if each.arg else each for each in keywords))
                case ast.Expr(ast.Call(ast.Attribute(ast.Name("torch"), "_check"), [condition, ast.Lambda(none, told)], [])):
                    yield from self.values(condition)
                    if "torch" in self.local or ast.unparse(none) or not _constant(told):
                        yield node
                case ast.Expr(value) | ast.Return(value):
                    yield from self.values(value or node, block=block)
                case ast.Assign(targets, value):
                    yield from (each for each in targets if not _names(each))
                    yield from self.values(value, block=block)
                case ast.For(ast.Name(), _, inner, []) if _over_blocks(node):
                    yield from self.statements(inner, "block" not in self.local)
                case ast.For(ast.Name(), ast.Tuple() as names, inner, []) if _constant(names):
                    yield from self.statements(inner)
                case _:
                    yield node

    def values(self, *nodes: ast.AST, block: bool = False) -> Iterator[ast.AST]:
        """`block`: whether a block may be called."""
        for node in nodes:
            match node:
                case ast.Constant():
                    pass
                case ast.Name(name) if name in self.local:
                    pass
                case ast.Attribute() | ast.Subscript() if _path(node):
                    pass
                case ast.Attribute(ast.Name("self"), "training"):
                    pass
                case ast.Attribute(ast.Name(library)) if library not in self.local and _is_number(node):
                    pass
                case ast.Attribute(value, name) if name in _OF_TENSORS:
                    yield from self.values(value)
                case ast.Subscript(value, index) if _root(value) != "self" or _is_position(index):
                    yield from self.values(value, index)
                case ast.Tuple(parts) | ast.List(parts) | ast.BoolOp(_, parts):
                    yield from self.values(*parts)
                case ast.Dict(keys, parts) if None not in keys:
                    yield from self.values(*keys, *parts)  # type: ignore[arg-type]  # of the keys, none is None
                case ast.UnaryOp(_, part):
                    yield from self.values(part)
                case ast.BinOp(left, _, right):
                    yield from self.values(left, right)
                case ast.Compare(left, _, right):
                    yield from self.values(left, *right)
                case ast.IfExp(test, body, other):
                    yield from self.values(test, body, other)
                case ast.Call(callee, args, keywords) if self.callable(callee, block, bool(keywords)):
                    yield from self.values(*args, *(each.value if each.arg else each for each in keywords))
                case _:
                    yield node

    def callable(self, callee: ast.AST, block: bool, named: bool) -> bool:
        """`named`: whether it is given arguments by their names, which no function of numbers is (`max` would call its `key`)."""
        match callee:
            case ast.Name("block") | ast.Attribute(ast.Name("block"), "_eval" | "_train"):
                return block
            case ast.Name(name):
                return name in self.classes or (name in _FUNCTIONS - self.local and not named)
            case ast.Attribute(ast.Name("self"), "_eval" | "_train"):
                return True
            case ast.Attribute(part, "_eval" | "_train"):
                return ".".join(_path(part)) in self.made
        if path := _path(callee):
            return ".".join(path) in self.made
        return _root(callee) not in self.local and _is_function(callee)


def _root(node: ast.AST) -> str:
    """The name that a path of attributes and items begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _path(node: ast.AST) -> tuple[str, ...]:
    """The names of a part of `self`, from above: `self.layers[3].weight`; empty for all else, such as what every module has."""
    match node:
        case ast.Attribute(above, str(name)) if not name.startswith("__"):
            pass
        case ast.Subscript(above, ast.Constant(str() | int() as key)):
            name = str(key)
        case _:
            return ()
    path = _path(above)
    known = hasattr(_MODULE, name) or name in _METHODS
    return (*path, name) if not known and (path or (isinstance(above, ast.Name) and above.id == "self")) else ()


def _is_position(index: ast.AST) -> bool:
    """Whether an index is made of numbers alone: a text would be the name of an attribute."""
    return not any(
        isinstance(each, ast.Name) or (isinstance(each, ast.Constant) and isinstance(each.value, str)) for each in ast.walk(index)
    )


def _is_number(node: ast.AST) -> bool:
    """Whether an attribute of a library is a value: `torch.float16`, `math.pi`."""
    match ast.unparse(node).split("."):
        case ["torch", name]:
            return isinstance(getattr(torch, name, None), _VALUES)
        case ["math", name]:
            return isinstance(getattr(math, name, None), float)
    return False


def _is_function(node: ast.AST) -> bool:
    """Whether an attribute of a library is an op of torch, or a function of numbers."""
    match (text := ast.unparse(node)).split("."):
        case ["aten", name, *overload] | ["torch", "ops", "prims", name, *overload]:
            packet = getattr(torch.ops.aten if text.startswith("aten.") else torch.ops.prims, name, None)
            if not isinstance(packet, torch._ops.OpOverloadPacket) or name in _FILES:
                return False
            return not overload or (len(overload) == 1 and overload[0] in packet.overloads())  # type: ignore[no-untyped-call]
        case ["torch", name]:
            return name in _TORCH or name.startswith("sym_")
        case ["math", name]:
            return not name.startswith("_")
        case ["operator", name]:
            return name in _OPERATOR
    return False


def _names(node: ast.AST) -> bool:
    """Whether it is a variable, or several."""
    return all(isinstance(each, ast.Name) for each in (node.elts if isinstance(node, ast.Tuple) else [node]))


def _default(node: ast.AST) -> bool:
    """Whether the default of an argument is a number, a text or None."""
    match node:
        case ast.Constant() | ast.UnaryOp(ast.USub(), ast.Constant()) | ast.Call(ast.Name("float"), [ast.Constant()], []):
            return True
    return False


def _constant(*nodes: ast.AST) -> bool:
    return all(
        isinstance(each, (ast.Constant, ast.List, ast.Tuple, ast.expr_context)) for node in nodes for each in ast.walk(node)
    )

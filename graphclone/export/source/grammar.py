"""Is a module one that graphclone could have written? Then running it computes with tensors, and does nothing else.

A hash that lies beside a module says only that nobody changed one of the two. So the module itself is read: its helpers have to be those of
this version of graphclone, word for word, and all else may be nothing but calls of torch's ops, of the helpers and of the module's parts.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from graphclone.export.source import template

_FUNCTIONS = frozenset({"place", "parameter", "buffer", "tie", "expect"}) | {
    "super",
    "float",
    "complex",
    "slice",
    "max",
    "min",
    "round",
    "abs",
    "RuntimeError",
}
_LIBRARIES = frozenset({"torch", "aten", "math", "operator"})
_METHODS = frozenset({"__init__", "forward", "_eval", "_train", "train"})
_TORCH = frozenset({"promote_types", "device", "_check", "_assert"})  # and dtypes, and what works on sizes
_OPERATOR = frozenset({"neg", "pos", "not_", "invert", "lshift", "rshift", "xor"})
_FILES = frozenset({"from_file", "_save", "save", "load"})  # no op of torch's reads or writes a file but these
_NODES = (
    ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Call, ast.Tuple, ast.List, ast.Dict, ast.UnaryOp, ast.BinOp, ast.Compare,
    ast.BoolOp, ast.IfExp, ast.Slice, ast.Lambda, ast.keyword, ast.arguments, ast.arg, ast.expr_context, ast.operator, ast.unaryop,
    ast.cmpop, ast.boolop, ast.Assign, ast.Expr, ast.Return, ast.For, ast.If, ast.Raise,
)  # fmt: skip


def foreign(text: str) -> str | None:
    """The first place of a module that graphclone would not write, as `line 12: …`; None if there is none."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError) as error:
        return f"it is no Python: {error}"
    parts = [template.PARTS, template.TIE, template.EXPECT, template.OUTPUT, template.LOAD.format(weights="model.safetensors")]
    own = {
        ast.dump(n) for each in (*parts, *template.IMPORTS, "aten = torch.ops.aten", "TIES = set()") for n in ast.parse(each).body
    }
    rest = [node for node in body if ast.dump(node) not in own]
    classes = {node.name for node in rest if isinstance(node, ast.ClassDef)} | {
        node.targets[0].id for node in rest if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    fixed = {name for node in body if node not in rest for name in _defined(node)} | _FUNCTIONS | _LIBRARIES
    for node in rest:
        if strange := next(_strange(node, classes, fixed), None):
            return f"line {getattr(strange, 'lineno', '?')}: {ast.unparse(strange).splitlines()[0][:80]}"
    return None


def _defined(node: ast.stmt) -> Iterator[str]:
    """The names that one of graphclone's own statements gives a meaning to."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        yield node.name
    for each in ast.walk(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
        if isinstance(each, ast.alias):
            yield each.asname or each.name


def _strange(node: ast.stmt, classes: set[str], fixed: set[str]) -> Iterator[ast.AST]:
    """What of a statement of the module is not to be run."""
    match node:
        case ast.Expr(ast.Constant()):
            return
        case ast.Assign([ast.Name("TIES")], ast.Set(names)) if _constant(*names):
            return
        case ast.Assign([ast.Name(name)], ast.Call(ast.Name("namedtuple"), args, [])) if _constant(*args) and name not in fixed:
            return
        case ast.ClassDef(name, [ast.Name("Output")], [], [ast.Assign([ast.Name("fields")], value)], [ast.Name("output")]):
            if _constant(value) and name not in fixed:
                return
        case ast.ClassDef(name, [ast.Name("Parts")], [], methods, []) if name not in fixed:
            for method in methods:
                if (
                    not isinstance(method, ast.FunctionDef)
                    or method.name not in _METHODS
                    or method.decorator_list
                    or method.returns
                ):
                    yield method
                    return
                roots = {id(each.value) for each in ast.walk(method) if isinstance(each, ast.Attribute)}
                local = {each.arg for each in ast.walk(method) if isinstance(each, ast.arg)}
                local |= {each.id for each in ast.walk(method) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
                for statement in (method.args, *method.body):
                    yield from (each for each in ast.walk(statement) if not _plain(each, roots, local, classes, fixed))
            return
    yield node


def _plain(node: ast.AST, roots: set[int], local: set[str], classes: set[str], fixed: set[str]) -> bool:
    """Whether a part of a method is one that graphclone writes. `roots`: what attributes are read of; `local`: variables and arguments."""
    match node:
        case ast.Name(name, ast.Load()):
            if name in fixed:
                return name in _FUNCTIONS or (name in _LIBRARIES and id(node) in roots)
            return name in local or not hasattr(builtins, name)
        case ast.Name(name) | ast.arg(name, None):
            return name not in fixed | classes
        case ast.Attribute():
            return _readable(node, id(node) in roots)
        case ast.Subscript(value, index):
            return all(isinstance(each, (ast.Constant, ast.UnaryOp, ast.USub, ast.Slice, ast.expr_context)) or _root(value) != "self"
                       for each in ast.walk(index)) and not any(_hidden(each) for each in ast.walk(index))  # fmt: skip
        case ast.Call(ast.Name(name)):
            return name in _FUNCTIONS | classes | {"block"}
        case ast.Call(ast.Subscript() as callee):
            return _root(callee) == "self"
        case ast.Call(ast.Attribute() as callee):
            return _callable(callee)
        case ast.For(ast.Name(), ast.Call(ast.Attribute(attr="children"), [], []) | ast.Tuple()):
            return not node.orelse
        case ast.If() | ast.Raise():
            return ast.unparse(node).startswith(("if mode:\n    raise RuntimeError(", "raise RuntimeError("))
        case ast.For() | ast.Call():
            return False
        case ast.Assign(targets):
            return all(isinstance(each, (ast.Name, ast.Tuple, ast.expr_context)) for t in targets for each in ast.walk(t))
        case ast.Lambda():
            return isinstance(node.body, ast.Constant)
    return isinstance(node, _NODES)


def _root(node: ast.AST) -> str:
    """The name that a path of attributes and items begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _hidden(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("_")


def _readable(node: ast.Attribute, is_root: bool) -> bool:
    """Whether an attribute is an op of torch, a function of numbers, or a part of a module. `is_root`: whether one is read of it."""
    text = ast.unparse(node)
    match text.split("."):
        case ["aten", name, *overload] | ["torch", "ops", "prims", name, *overload]:
            packet = getattr(torch.ops.aten if text.startswith("aten.") else torch.ops.prims, name, None)
            if not isinstance(packet, torch._ops.OpOverloadPacket) or name in _FILES:
                return False
            return not overload or (len(overload) == 1 and overload[0] in packet.overloads())  # type: ignore[no-untyped-call]
        case ["torch", "ops"] | ["torch", "ops", "prims"]:
            return is_root
        case ["torch", name]:
            return name in _TORCH or name.startswith("sym_") or isinstance(getattr(torch, name, None), _VALUES)
        case ["math", name]:
            return not name.startswith("_")
        case ["operator", name]:
            return name in _OPERATOR
    return text == "super().__init__" or (_root(node) not in _LIBRARIES and not node.attr.startswith("__"))


_VALUES = (torch.dtype, torch.layout, torch.memory_format)


def _callable(callee: ast.Attribute) -> bool:
    """Whether something with a dot may be called: a function of a library, or a module that is a part of this one."""
    if _root(callee) in _LIBRARIES or ast.unparse(callee) in ("super().__init__", "super().train"):
        return True
    if _root(callee) not in ("self", "block"):
        return False
    known = hasattr(nn.Module, callee.attr) or hasattr(Tensor, callee.attr)
    return not known or callee.attr in ("children", "eval")


def _constant(*nodes: ast.expr) -> bool:
    return all(
        isinstance(each, (ast.Constant, ast.List, ast.Tuple, ast.expr_context)) for node in nodes for each in ast.walk(node)
    )

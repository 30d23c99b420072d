"""The parent's inputs and outputs as they are nested: pytree specs as Python text."""

from __future__ import annotations

import dataclasses
import keyword
import re
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Iterator
from typing import Any

from graphclone.errors import OutputError
from graphclone.export.source.names import TAKEN


def children(spec: Any) -> list[Any]:
    return list(spec.children()) if hasattr(spec, "children") else list(spec.children_specs)  # torch < 2.9 has no `children`


def leaves(spec: Any, path: str) -> Iterator[str]:
    """Where the leaves of an argument are, from its name on: `images[0]["mask"]`. **Raises** `OutputError`."""
    if spec.is_leaf():
        yield path
        return
    keys = _keys(spec) if issubclass(_class(spec), dict) else list(range(spec.num_children))
    if not issubclass(_class(spec), (tuple, list, dict)):
        raise _foreign("takes", spec)
    for key, child in zip(keys, children(spec), strict=True):
        yield from leaves(child, f"{path}[{key!r}]")


def built(spec: Any, values: Iterator[str]) -> str:
    """An output, made of the texts of its leaves."""
    if spec.is_leaf():
        return next(values)
    parts = [built(child, values) for child in children(spec)]
    if _is_record(spec):
        return f"{_title(spec)}({', '.join(f'{key}={part}' for key, part in zip(_keys(spec), parts, strict=True))})"
    if issubclass(_class(spec), tuple):
        return f"({', '.join(parts)}{',' * (len(parts) == 1)})"
    if issubclass(_class(spec), list):
        return f"[{', '.join(parts)}]"
    return f"{{{', '.join(f'{key!r}: {part}' for key, part in zip(_keys(spec), parts, strict=True))}}}"


def records(spec: Any) -> Iterator[str]:
    """The classes that an output is made of, as Python text. **Raises** `OutputError` for one that is no dict and no named tuple."""
    if spec.is_leaf():
        return
    for child in children(spec):
        yield from records(child)
    found, name = _class(spec), _title(spec)
    if not _is_record(spec):
        if found not in (tuple, list, dict, OrderedDict, defaultdict):
            raise _foreign("returns", spec)
    elif issubclass(found, tuple):
        yield f"{name} = namedtuple({name!r}, {_keys(spec)!r})\n"
    else:
        known = [each.name for each in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []
        yield f"@output\nclass {name}(Output):\n    fields = {tuple(dict.fromkeys([*known, *_keys(spec)]))!r}\n"


def _class(spec: Any) -> type:
    found: type = spec.context if spec.type is namedtuple else spec.type
    return found


def _title(spec: Any) -> str:
    """What a class of the parent is called in the module, which has names of its own."""
    name = _class(spec).__name__
    return f"{name}_" if name in TAKEN or name == "Model" or re.search(r"Block\d*$", name) else name


def _keys(spec: Any) -> list[Any]:
    if issubclass(_class(spec), tuple):
        return list(spec.context._fields)
    return list(spec.context[1] if spec.type is defaultdict else spec.context)


def _is_record(spec: Any) -> bool:
    """Whether it has named parts: a named tuple, or a dict of a class of its own (transformers' outputs)."""
    if issubclass(_class(spec), tuple):
        return spec.type is namedtuple
    own = issubclass(_class(spec), dict) and _class(spec) not in (dict, OrderedDict, defaultdict)
    return own and all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in _keys(spec))


def _foreign(does: str, spec: Any) -> OutputError:
    return OutputError(
        f"cannot write a child that {does} a {_class(spec).__name__}",
        because="that class is the parent's own, and a child has to load with torch alone",
        attempt="a parent of tensors, tuples, lists and dicts; or --pt2 alone",
    )

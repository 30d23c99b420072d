"""What every written module begins and ends with."""

HEAD = '''"""A clone of a model, smaller or deeper than that, as a module of its own.

Written by graphclone {version}. It needs torch and safetensors alone: `from {stem} import load; model = load()`.
"""

{imports}

aten = torch.ops.aten
'''


# What a module may import, and what of its text says that it does.
IMPORTS = {
    "from collections import namedtuple": "namedtuple(",
    "import math": "math.",
    "import operator": "operator.",
    "from pathlib import Path": "",
    "import torch": "",
    "from safetensors.torch import load_file": "",
    "from torch import nn": "",
    "from torch.utils import _pytree as pytree": "(Output)",
}


def head(version: str, file: str, body: str) -> str:
    """`body`: the text of the classes, which says what has to be imported."""
    imports = [line + "\n" * (line == "from pathlib import Path") for line, sign in IMPORTS.items() if sign in body]
    return HEAD.format(version=version, stem=file.removesuffix(".py"), imports="\n".join(imports))


PARTS = '''class Parts(nn.Module):
    """Modules and tensors by name; those whose names are numbers or no Python are `parts[3]`, `parts["a b"]`."""

    def __getitem__(self, name):
        return getattr(self, str(name))


def place(root, name, thing):
    """Put a module, a parameter or a buffer where its dotted name says."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, Parts())
        root = root._modules[part]
    if isinstance(thing, nn.Module):
        root.add_module(last, thing)
    elif isinstance(thing, nn.Parameter):
        root.register_parameter(last, thing)
    else:
        root.register_buffer(last, thing)


def parameter(root, name, *shape, dtype=torch.float32, trained=True):
    place(root, name, nn.Parameter(torch.empty(shape, dtype=dtype), trained))


def buffer(root, name, *shape, dtype=torch.float32):
    place(root, name, torch.empty(shape, dtype=dtype))
'''

TIE = '''def tie(root, name, other):
    """Another name of a parameter."""
    place(root, name, root.get_parameter(other))
'''

EXPECT = '''def expect(name, tensor, *sizes):
    """A child computes what its parent does for the sizes that it was traced with, and for no others."""
    if tuple(tensor.shape) != sizes:
        raise ValueError(f"'{name}' is {list(tensor.shape)}, and has to be {list(sizes)}: this model was traced with these sizes")
'''

OUTPUT = '''class Output(dict):
    """A dict whose values are attributes as well, and by number the values in order. A field that is not there is None."""

    fields = ()

    def __init__(self, **values):
        super().__init__((name, value) for name, value in values.items() if value is not None)
        for name in self.fields:
            setattr(self, name, values.get(name))

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self):
        return tuple(self.values())


def output(kind):
    """torch.compile and torch.export look into outputs of this class."""
    pytree.register_pytree_node(
        kind,
        lambda it: (list(it.values()), list(it)),
        lambda values, keys: kind(**dict(zip(keys, values))),
        flatten_with_keys_fn=lambda it: ([(pytree.MappingKey(key), it[key]) for key in it], list(it)),
    )
    return kind
'''

LOAD = '''def load(folder=Path(__file__).parent):
    """The model with the weights of a folder, in eval mode."""
    model = Model()
    missing, unexpected = model.load_state_dict(load_file(Path(folder) / "{weights}"), strict=False)
    if unexpected or {{*missing}} != TIES:
        raise ValueError(f"{{folder}} holds other weights: {{sorted({{*missing}} - TIES)}} are missing, {{unexpected}} are too many")
    return model.eval()
'''

UNTRAINED = """def train(self, mode=True):
    if mode:
        raise RuntimeError({reason!r})
    return super().train(False)
"""

"""Every model type of transformers, tiny: `names()`, `find("hf/llama/LlamaForCausalLM")`."""

from models_zoo.entry import Unbuildable
from models_zoo.field.hf.zoo import find, names

__all__ = ["Unbuildable", "find", "names"]

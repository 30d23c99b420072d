"""A rewritten graph as Python source: one readable module and its weights, which load with torch and safetensors alone."""

from graphclone.export.source.clone import save_clone, write_clone
from graphclone.export.source.folder import load, save
from graphclone.export.source.module import MODULE, WEIGHTS, Source, source, text
from graphclone.export.source.train import train_mode

__all__ = ["MODULE", "WEIGHTS", "Source", "load", "save", "save_clone", "source", "text", "train_mode", "write_clone"]

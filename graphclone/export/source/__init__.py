"""A rewritten graph as Python source: one readable module and its weights, which load with torch and safetensors alone."""

from graphclone.export.source.folder import load, save
from graphclone.export.source.module import MODULE, WEIGHTS, Source, source, text

__all__ = ["MODULE", "WEIGHTS", "Source", "load", "save", "source", "text"]

"""What a program may do next; each file registers its moves (see `tests.programs.world.move`)."""

from tests.programs.moves import arithmetic, contract, indices, motifs, rearrange, reduce, sized, spatial

__all__ = ["arithmetic", "contract", "indices", "motifs", "rearrange", "reduce", "sized", "spatial"]

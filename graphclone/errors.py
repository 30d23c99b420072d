"""Everything that graphclone raises on purpose.

    GraphcloneError
    ├── CaptureError        torch.export cannot trace the model
    ├── SourceError         a parent cannot be found or read
    ├── WeightsError        weights that no child should be made of (NaN, infinite, wrong shape)
    ├── UnknownNameError    no factor, block or parameter of that name
    ├── FrozenError         a factor that has to stay as it is was asked to change
    ├── SizeError           a size that does not fit (does not divide, is too large, is not positive)
    ├── DestinationError    a destination that no plan can fill from this parent
    ├── PlanError           a plan that cannot be read, or that does not fit this model
    └── OutputError         an output that cannot be written, or that would overwrite something

A message says what was asked, what stands against it and where (the user's file and line), and what to try.
"""

from __future__ import annotations


class GraphcloneError(Exception):
    """The family. `because` and `attempt` become indented lines below the message."""

    def __init__(self, what: str, *, because: str = "", attempt: str = "") -> None:
        self.because = because
        lines = [what]
        lines += [f"  because  {because}"] if because else []
        lines += [f"  try      {attempt}"] if attempt else []
        super().__init__("\n".join(lines))


class CaptureError(GraphcloneError):
    """torch.export cannot trace the model."""


class SourceError(GraphcloneError):
    """A parent cannot be found or read."""


class WeightsError(GraphcloneError):
    """Weights that no child should be made of."""


class UnknownNameError(GraphcloneError):
    """No factor, block or parameter has that name."""


class FrozenError(GraphcloneError):
    """A factor that has to stay as it is was asked to change."""


class SizeError(GraphcloneError):
    """A size that does not fit: it does not divide, is too large or is not positive."""


class DestinationError(GraphcloneError):
    """A destination that no plan can fill from this parent."""


class PlanError(GraphcloneError):
    """A plan that cannot be read, or that does not fit this model."""


class OutputError(GraphcloneError):
    """An output that cannot be written, or that would overwrite something."""

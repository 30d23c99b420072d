"""What was asked of a parent, as the commands share it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Asked:
    """A parent as the command line names it; see `graphclone.sources.load`."""

    spec: str
    arg: list[str]
    input: list[str]
    checkpoint: Path | None
    allow_pickle: bool
    trust_remote_code: bool

    def words(self) -> list[str]:
        """The same as words of a command line."""
        checkpoint = ["--checkpoint", str(self.checkpoint)] if self.checkpoint is not None else []
        flags = ["--allow-pickle"] * self.allow_pickle + ["--trust-remote-code"] * self.trust_remote_code
        named = [
            word for option, values in (("--arg", self.arg), ("--input", self.input)) for v in values for word in (option, v)
        ]
        return [self.spec, *named, *checkpoint, *flags]

"""The Python that README.md and docs/ show runs as it stands there, top to bottom, in a clone of this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/distill.md", "docs/recipes.md"])
def test_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("graphclone", "README.md", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = [block for block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")) if "measured(" not in block]  # a clock
    assert blocks
    scope: dict[str, object] = {"__name__": page}
    for block in blocks:
        exec(compile(block, page, "exec"), scope)

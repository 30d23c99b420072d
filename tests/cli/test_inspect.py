"""`graphclone inspect`: everything that a user may ask of a parent."""

from __future__ import annotations

import json

from tests.cli.conftest import EINSUM, PARENT, Run


def test_it_shows_blocks_free_factors_and_frozen_ones_with_their_reason(run: Run) -> None:
    done = run("inspect", PARENT)
    assert done.status == 0
    assert "vit.layers" in done.out
    assert "residual" in done.out
    assert "vit.layers.*.mlp.hidden" in done.out
    assert "modeling_vit.py:" in done.out


def test_as_data_it_holds_every_factor_and_its_slots(run: Run) -> None:
    data = json.loads(run("inspect", PARENT, "--json").out)
    assert data["parameters"] == 452_074
    residual = next(each for each in data["factors"] if each["name"] == "residual")
    assert ["vit.layernorm.weight", 0] in residual["slots"]
    assert len(data["stacks"][0]["blocks"]) == 6


def test_why_lists_every_place_with_its_line(run: Run) -> None:
    done = run("inspect", PARENT, "--why", "*.mlp.hidden")
    assert "free: a child may keep fewer" in done.out
    assert "parameter[dim]" in done.out
    assert "aten.linear at modeling_vit.py:" in done.out


def test_axes_prints_terms(run: Run) -> None:
    assert "(1 + 1 + 1) heads head_dim residual" in run("inspect", *EINSUM, "--axes", "qkv.*").out


def test_all_gives_each_factor_a_row(run: Run) -> None:
    assert "vit.layers.3.mlp.hidden" in run("inspect", PARENT, "--all").out


def test_an_unknown_name_is_answered_with_the_nearest(run: Run) -> None:
    done = run("inspect", PARENT, "--why", "residul")
    assert done.status == 2
    assert "no factor is called 'residul'" in done.err
    assert "residual" in done.err
    assert done.out == ""
    done = run("inspect", PARENT, "--axes", "q_prj.weight")
    assert done.status == 2
    assert "no parameter is called 'q_prj.weight'" in done.err
    assert "q_proj.weight" in done.err

"""Settings are found by trying: for made-up classes whose rules are known, and for classes of transformers in the command line's tests."""

from __future__ import annotations

from graphclone.sources.solver import Settings, Shapes, Solution, solve

PARENT = {"width": 48, "hidden": 96, "heads": 6, "kv": 3, "depth": 4, "head_dim": None, "vocabulary": 61, "stages": [8, 16]}


def build(settings: Settings) -> Shapes | None:
    """A class that works its head size out, wants as many heads as divide the width, and has two stages beside its layers."""
    sizes = PARENT | settings
    width, heads, kv = sizes["width"], sizes["heads"], sizes["kv"]
    if (sizes["head_dim"] is None and width % heads) or heads % kv or len(sizes["stages"]) != 2:
        return None
    head = sizes["head_dim"] or width // heads
    shapes = {"embed": (sizes["vocabulary"], width), "norm": (width,)}
    for layer in range(sizes["depth"]):
        shapes |= {f"layers.{layer}.q": (heads * head, width), f"layers.{layer}.k": (kv * head, width)}
        shapes |= {f"layers.{layer}.up": (sizes["hidden"], width)}
    return shapes | {f"stage.{i}": (channels, 3) for i, channels in enumerate(sizes["stages"])}


def solved(**wanted: object) -> Settings:
    """The settings found for the shapes that these settings give."""
    shapes = build(wanted)
    assert shapes is not None
    counts = [(4, wanted["depth"]), (4, 4)] if "depth" in wanted else []  # beside it, a stack as long that stays whole
    solution = next(solve(shapes, PARENT, build, counts))
    assert not solution.unmet
    assert build(solution.settings) == shapes
    return solution.settings


def test_every_size_by_itself_and_all_together() -> None:
    assert solved(hidden=56) == {"hidden": 56}
    assert solved(depth=3) == {"depth": 3}
    assert solved(depth=5) == {"depth": 5}
    assert solved(depth=13, width=24)["depth"] == 13  # more than twice as deep
    assert solved(stages=[8, 12]) == {"stages": [8, 12]}
    assert solved(stages=[4, 8]) == {"stages": [4, 8]}
    assert solved(width=24) == {"width": 24}  # the head size follows
    assert solved(width=24, hidden=64, depth=2, kv=1, heads=3, head_dim=8)["width"] == 24


def test_what_the_class_works_out_is_held_where_the_plan_keeps_it() -> None:
    assert solved(width=24, head_dim=8) == {"width": 24, "head_dim": 8}


def test_two_fields_that_only_together_are_allowed() -> None:
    assert solved(heads=2, kv=1, head_dim=8) == {"heads": 2, "kv": 1, "head_dim": 8}


def test_a_layer_of_its_own_size_cannot_be_had() -> None:
    shapes = dict(build({}) or {}) | {"layers.2.up": (64, 48)}
    (solution,) = solve(shapes, PARENT, build, [])
    assert solution.unmet == {"layers.2.up": ((64, 48), (96, 48))}
    assert solution.settings == {}


def test_a_class_that_cannot_even_build_the_parent_solves_nothing() -> None:
    (solution,) = solve({"embed": (61, 48)}, PARENT, lambda settings: None, [])
    assert solution.unmet == {"embed": ((61, 48), None)}


def grouped(settings: Settings) -> Shapes | None:
    """A class whose number of heads is told by no shape of the queries, but refused where it does not divide the width."""
    sizes = {"width": 96, "heads": 6, "kv": 2, "head_dim": 16, "positions": 60} | settings
    if sizes["width"] % sizes["heads"]:
        return None
    return {"q": (sizes["width"], sizes["width"]), "k": (sizes["kv"] * sizes["head_dim"], sizes["width"])}


FIELDS = {"width": 96, "heads": 6, "kv": 2, "head_dim": 16, "positions": 60}


def test_a_number_that_no_shape_tells_of_follows_the_factors() -> None:
    wanted = grouped({"width": 48}) or {}
    ways = [each.settings for each in solve(wanted, FIELDS, grouped, [], [(96, 48), (6, 3)])]
    assert ways[:2] == [{"width": 48}, {"width": 48, "heads": 3}]
    assert all(grouped(way) == wanted for way in ways)
    assert len(ways) == len({str(sorted(way.items())) for way in ways})


def test_a_width_that_the_present_heads_do_not_divide() -> None:
    wanted = {"q": (64, 64), "k": (32, 64)}
    assert next(solve(wanted, FIELDS, grouped, [], [(96, 64), (6, 4)])) == Solution({"width": 64, "heads": 4})


def test_fewer_heads_or_smaller_ones_are_both_found() -> None:
    wanted = {"q": (96, 96), "k": (16, 96)}
    ways = [each.settings for each in solve(wanted, FIELDS, grouped, [], [(2, 1)])]
    assert {"kv": 1} in ways
    assert {"head_dim": 8} in ways


def test_a_ratio_of_widths_is_a_number_to_set_too() -> None:
    def ratio(settings: Settings) -> Shapes | None:
        sizes = {"width": 24, "mlp_ratio": 4.0, "dropout": 1.5} | settings
        return {"up": (int(sizes["width"] * sizes["mlp_ratio"]), sizes["width"]), "norm": (sizes["width"],)}

    fields = {"width": 24, "mlp_ratio": 4.0, "dropout": 1.5, "limit": float("inf")}
    assert next(solve({"up": (96, 12), "norm": (12,)}, fields, ratio, [])) == Solution({"width": 12, "mlp_ratio": 8.0})


def test_a_multiple_of_the_width_makes_up_for_it() -> None:
    def multiplied(settings: Settings) -> Shapes:
        sizes = {"width": 48, "expand": 2, "rank": 3} | settings
        inner = sizes["expand"] * sizes["width"]
        mixers = {f"layers.{i}.{name}": (inner, sizes["rank"]) for i in range(2) for name in ("in", "step", "skip")}
        return mixers | {"layers.0.down": (sizes["width"], inner), "layers.1.down": (sizes["width"], inner)}

    wanted = multiplied({"width": 24, "expand": 4})
    found = next(solve(wanted, {"width": 48, "expand": 2, "rank": 3}, multiplied, [], [(48, 24)]))
    assert (found.settings, found.unmet) == ({"width": 24, "expand": 4}, {})

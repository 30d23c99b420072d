from __future__ import annotations

import pytest

from graphclone.errors import SourceError
from graphclone.sources.literals import assignments, literal, literals


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("96", 96),
        ("1e-5", 1e-5),
        ("[2, 2]", [2, 2]),
        ("(3,)", (3,)),
        ("None", None),
        ("null", None),
        ("True", True),
        ("true", True),
        ("'96'", "96"),
        ("gelu", "gelu"),
        ("", ""),
        ('{"rope_type": "default"}', {"rope_type": "default"}),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_a_value_is_a_literal_or_else_text(text: str, value: object) -> None:
    assert literal(text) == value
    assert type(literal(text)) is type(value)


def test_what_is_no_text_is_left_alone() -> None:
    assert literals({"depth": 2, "act": "gelu", "width": "96"}) == {"depth": 2, "act": "gelu", "width": 96}


def test_the_first_equals_sign_divides() -> None:
    assert assignments(["a=1", "b = x=y"]) == {"a": 1, "b": "x=y"}


@pytest.mark.parametrize("text", ["hidden_size", "=96"])
def test_a_setting_without_both_sides_shows_how_one_is_written(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        assignments([text])
    assert str(caught.value) == f"cannot read '{text}'\n  because  a setting is written name=value\n  try      hidden_size=96"


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(SourceError, match=r"cannot set 'a' twice\n  because  it is 1 already when 'a=2' comes"):
        assignments(["a=1", "a=2"])

"""Wording that reports, plans and status lines share."""

import pytest

from search.wording import counted


@pytest.mark.parametrize(("number", "told"), [(0, "0 cells"), (1, "1 cell"), (85, "85 cells")])
def test_one_of_a_thing_is_singular(number: int, told: str) -> None:
    assert counted(number, "cell") == told

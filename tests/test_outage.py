"""What an hour's outage costs, with and without a `CooldownPolicy`."""

import pytest

from langchain_model_gateway import CooldownPolicy
from tests.outage import CALLS, hour, main


def test_a_cooldown_spares_the_dead_primary_and_the_callers() -> None:
    """Every call is answered either way; with cooldowns, hardly one pays for the outage."""
    without, cooled = hour(None), hour(CooldownPolicy())
    assert without.answered == cooled.answered == CALLS
    assert without.asked_while_dead == without.dead_calls > 400
    assert cooled.asked_while_dead * 15 < without.asked_while_dead
    assert cooled.seconds_lost * 15 < without.seconds_lost


def test_a_cooldown_does_not_keep_from_a_healthy_primary() -> None:
    """After the outage it answers again, no later than the longest cooldown."""
    without, cooled = hour(None), hour(CooldownPolicy())
    longest = CooldownPolicy().max_duration
    assert without.by_primary - cooled.by_primary <= 2 * longest * CALLS / 3600


def test_the_numbers_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """One command gives the README its two numbers."""
    main()
    printed = capsys.readouterr().out
    assert "without cooldown" in printed
    assert "with CooldownPolicy()" in printed

"""What an hour's outage costs, with and without a `CooldownPolicy`."""

import pytest

from langchain_model_gateway import CooldownPolicy
from tests.outage import asked_while_dead, hour, main, seconds_lost

CALLS = 1000


def test_a_cooldown_spares_the_dead_primary_and_the_callers() -> None:
    """Every call is answered either way; with cooldowns, hardly one pays for the outage."""
    without, cooling = hour(None), hour(CooldownPolicy())
    assert without.answered == cooling.answered == CALLS
    assert asked_while_dead(without) == len(without.in_trouble.calls) > 400
    assert asked_while_dead(cooling) * 15 < asked_while_dead(without)
    assert seconds_lost(cooling) * 15 < seconds_lost(without)


def test_a_cooldown_does_not_keep_from_a_healthy_primary() -> None:
    """After the outage it answers again, no later than the longest cooldown."""
    without, cooling = hour(None), hour(CooldownPolicy())
    longest = CooldownPolicy().max_duration
    assert without.answers["primary"] - cooling.answers["primary"] <= 2 * longest * CALLS / 3600


def test_the_numbers_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """One command gives the documents their two numbers."""
    main()
    printed = capsys.readouterr().out
    assert "without cooldown" in printed
    assert "with CooldownPolicy()" in printed

"""A batch: each input routed by itself, with exactly one answer or one error."""

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_model_gateway import AllModelsFailedError, CooldownPolicy, NoModelAvailableError

from .conftest import BatchForm
from .models import NEVER, gateway_over, says, who

PATIENCE = 10
"""Seconds after which a test that waits for another thread has failed."""


def model(function: Callable[[str], Any]) -> RunnableLambda:
    """A model that answers with what a function makes of the question."""
    return RunnableLambda(lambda text: AIMessage(function(text)))


def echo(text: str) -> str:
    return text


def down(_: str) -> str:
    raise ConnectionError("down")


def contents(answers: list[Any]) -> list[str]:
    return [answer.content for answer in answers]


def dies_after(calls: int) -> RunnableLambda:
    """A model that answers so many questions and then no more, from whatever thread."""
    left, lock = iter(range(calls)), threading.Lock()

    def function(text: str) -> str:
        with lock:
            alive = next(left, None) is not None
        return text if alive else down(text)

    return model(function)


# --- each input by itself ------------------------------------------------------------------------


def test_answers_stand_in_the_order_of_their_inputs(run_batch: BatchForm) -> None:
    """Whoever answers, each position has its own input's answer."""
    picky = model(lambda text: down(text) if int(text) % 3 == 0 else text)
    inputs = [str(i) for i in range(30)]
    answers = run_batch(gateway_over(picky, model(echo)), inputs)
    assert contents(answers) == inputs
    expected = ["strong" if i % 3 == 0 else "weak" for i in range(30)]
    assert [who(answer) for answer in answers] == expected


def test_an_empty_batch_has_no_answers(run_batch: BatchForm) -> None:
    """Nothing asked, nothing answered, nobody called."""
    weak = says("a")
    assert run_batch(gateway_over(weak, says("b")), []) == []
    assert weak.calls == []


def test_one_inputs_failure_sends_no_other_again(run_batch: BatchForm) -> None:
    """Only the failed input goes to the next deployment, and nothing goes anywhere twice."""
    first: Counter[str] = Counter()
    second: Counter[str] = Counter()

    def weak(text: str) -> str:
        first[text] += 1
        return down(text) if text == "3" else text

    def strong(text: str) -> str:
        second[text] += 1
        return text

    inputs = [str(i) for i in range(8)]
    run_batch(gateway_over(model(weak), model(strong)), inputs)
    assert first == Counter(inputs)
    assert second == {"3": 1}


def test_an_input_falls_back_without_waiting_for_its_siblings(run_batch: BatchForm) -> None:
    """The next deployment answers one input while the first still works on another."""
    fell_back = threading.Event()

    def weak(text: str) -> str:
        if text == "bad":
            down(text)
        return "in time" if fell_back.wait(PATIENCE) else "too late"

    def strong(text: str) -> str:
        fell_back.set()
        return text

    answers = run_batch(gateway_over(model(weak), model(strong)), ["slow", "bad"])
    assert contents(answers) == ["in time", "bad"]


def test_inputs_of_one_batch_share_health(run_batch: BatchForm) -> None:
    """What one input found dead, those after it leave alone."""
    weak = says(ConnectionError("down"))
    cooldown = CooldownPolicy(failure_threshold=3, duration=300, max_duration=300)
    gateway = gateway_over(weak, model(echo), cooldown=cooldown)
    inputs = [str(i) for i in range(50)]
    answers = run_batch(gateway, inputs, {"max_concurrency": 1})
    assert contents(answers) == inputs
    assert len(weak.calls) == 3


def test_each_input_has_its_own_config(run_batch: BatchForm) -> None:
    """Preferences may differ from input to input."""
    configs = [{"configurable": {"model_preference": n}} for n in ("strong", "weak", "backup")]
    answers = run_batch(gateway_over(*[model(echo)] * 3), ["1", "2", "3"], configs)
    assert [who(answer) for answer in answers] == ["strong", "weak", "backup"]


def test_a_keyword_is_for_all_inputs(run_batch: BatchForm) -> None:
    """The keyword rules over each input's config, and reaches no model."""
    configs = [{"configurable": {"model_preference": "weak"}}, {}]
    strong = says("b")
    gateway = gateway_over(says("a"), strong)
    answers = run_batch(gateway, ["1", "2"], configs, model_preference="strong", stop=["."])
    assert [who(answer) for answer in answers] == ["strong"] * 2
    assert [received["stop"] for received in strong.received] == [["."]] * 2
    assert all("model_preference" not in received for received in strong.received)


def test_as_many_configs_as_inputs(run_batch: BatchForm) -> None:
    """A list of configs of another length is refused."""
    with pytest.raises(ValueError, match="same length"):
        run_batch(gateway_over(model(echo), model(echo)), ["1", "2", "3"], [{}, {}])


# --- errors --------------------------------------------------------------------------------------


def test_return_exceptions_gives_errors_in_place(run_batch: BatchForm) -> None:
    """An input nobody answers has its own error where its answer would stand."""
    picky = model(lambda text: down(text) if text in {"1", "3"} else text)
    answers = run_batch(gateway_over(picky, picky), list("01234"), return_exceptions=True)
    assert [type(a) for a in answers if isinstance(a, Exception)] == [AllModelsFailedError] * 2
    assert isinstance(answers[1], AllModelsFailedError)
    assert isinstance(answers[3], AllModelsFailedError)
    assert answers[1] is not answers[3]
    assert contents([answers[i] for i in (0, 2, 4)]) == ["0", "2", "4"]


def test_return_exceptions_gives_those_that_are_not_handled_too(run_batch: BatchForm) -> None:
    """An exception outside `exceptions_to_handle` is returned as it is."""
    error = KeyError("mine")
    gateway = gateway_over(says(error), model(echo), exceptions_to_handle=(ValueError,))
    assert run_batch(gateway, ["x", "y"], return_exceptions=True) == [error, error]


def test_without_return_exceptions_the_error_is_raised(run_batch: BatchForm) -> None:
    """One input without an answer fails the batch."""
    picky = model(lambda text: down(text) if text == "1" else text)
    with pytest.raises(AllModelsFailedError):
        run_batch(gateway_over(picky, picky), list("012"))


def test_a_batch_when_nobody_is_allowed(run_batch: BatchForm) -> None:
    """Each input has the same answer: nobody may be used now."""
    gateway = gateway_over(model(echo), model(echo), windows={"weak": NEVER, "strong": NEVER})
    answers = run_batch(gateway, ["1", "2"], return_exceptions=True)
    assert [type(answer) for answer in answers] == [NoModelAvailableError] * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_return_exceptions_returns_no_interrupt(run_batch: BatchForm, error: Any) -> None:
    """What stops the program is raised, not handed over as an answer."""
    strong = says("b")
    with pytest.raises(error):
        run_batch(gateway_over(says(error()), strong), ["x", "y"], return_exceptions=True)
    assert strong.calls == []


# --- concurrency ---------------------------------------------------------------------------------


def test_max_concurrency_is_honoured_and_used(run_batch: BatchForm) -> None:
    """Never more than the limit at work at once, and the limit is reached."""
    limit, lock, at_work = 3, threading.Lock(), Counter()
    together = threading.Barrier(limit)

    def work(text: str) -> str:
        with lock:
            at_work["now"] += 1
            at_work["peak"] = max(at_work["peak"], at_work["now"])
        together.wait(PATIENCE)
        with lock:
            at_work["now"] -= 1
        # The next may only begin when all of these have been counted out.
        together.wait(PATIENCE)
        return text

    inputs = [str(i) for i in range(4 * limit)]
    answers = run_batch(gateway_over(model(work), model(down)), inputs, {"max_concurrency": limit})
    assert contents(answers) == inputs
    assert at_work["peak"] == limit


def test_as_completed_gives_the_first_answer_first() -> None:
    """An answer is there for its reader while a sibling is still at work, sync and async."""
    for form in ("batch_as_completed", "abatch_as_completed"):
        was_read = threading.Event()

        def work(text: str, was_read: threading.Event = was_read) -> str:
            if text == "quick":
                return text
            return "in time" if was_read.wait(PATIENCE) else "too late"

        gateway = gateway_over(model(work), model(down))
        answers = []
        if form == "batch_as_completed":
            for position, answer in gateway.batch_as_completed(["slow", "quick"]):
                was_read.set()
                answers.append((position, answer.content))
        else:

            async def read(
                gateway: Any = gateway, answers: Any = answers, was_read: Any = was_read
            ) -> None:
                async for position, answer in gateway.abatch_as_completed(["slow", "quick"]):
                    was_read.set()
                    answers.append((position, answer.content))

            asyncio.run(read())
        assert answers == [(1, "quick"), (0, "in time")]


# --- aborted -------------------------------------------------------------------------------------


class Waiting:
    """A model that answers to "bad" with an error and to all else never; it notes its end."""

    def __init__(self) -> None:
        self.all_begun = asyncio.Event()
        self.begun: list[str] = []
        self.ended: list[str] = []

    async def __call__(self, text: str) -> AIMessage:
        self.begun.append(text)
        if len(self.begun) == 3:
            self.all_begun.set()
        try:
            if text == "bad":
                await self.all_begun.wait()
                raise KeyError(text)
            if text == "quick":
                return AIMessage(text)
            await asyncio.Event().wait()
        finally:
            self.ended.append(text)
        return AIMessage("never")


def check_nothing_runs(waiting: Waiting) -> None:
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert sorted(waiting.ended) == sorted(waiting.begun)


@pytest.mark.parametrize("form", ["abatch", "abatch_as_completed"])
async def test_an_error_leaves_no_task_running(form: str) -> None:
    """When the first error is raised, its siblings have ended."""
    waiting = Waiting()
    gateway = gateway_over(RunnableLambda(waiting), says("b"), exceptions_to_handle=(ValueError,))
    with pytest.raises(KeyError):
        if form == "abatch":
            await gateway.abatch(["1", "bad", "2"])
        else:
            async for _ in gateway.abatch_as_completed(["1", "bad", "2"]):
                pass
    check_nothing_runs(waiting)


async def test_a_cancelled_abatch_leaves_no_task_running() -> None:
    """A cancellation reaches every input's call, and the batch ends after them."""
    waiting, strong = Waiting(), says("b")
    batch = asyncio.create_task(
        gateway_over(RunnableLambda(waiting), strong).abatch(["1", "2", "3"])
    )
    await waiting.all_begun.wait()
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    check_nothing_runs(waiting)
    assert strong.calls == []


async def test_an_abandoned_abatch_as_completed_leaves_no_task_running() -> None:
    """A reader that goes away after one answer ends the others."""
    waiting = Waiting()
    answers = gateway_over(RunnableLambda(waiting), says("b")).abatch_as_completed(
        ["1", "quick", "2"]
    )
    position, answer = await anext(answers)
    assert (position, answer.content) == (1, "quick")
    await answers.aclose()
    check_nothing_runs(waiting)


def test_inputs_that_wait_for_their_turn_end_too() -> None:
    """With `max_concurrency`, those not yet begun never begin after an error, without a warning."""
    begun = []

    async def bad(text: str) -> AIMessage:
        begun.append(text)
        raise KeyError(text)

    async def main() -> None:
        gateway = gateway_over(RunnableLambda(bad), says("b"), exceptions_to_handle=(ValueError,))
        with pytest.raises(KeyError):
            await gateway.abatch(["1", "2", "3"], {"max_concurrency": 1})
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    gc.collect()  # a coroutine that was never awaited tells so when it is collected
    assert "3" not in begun


# --- 200 inputs ----------------------------------------------------------------------------------

INPUTS = [str(i) for i in range(200)]


def test_200_inputs_survive_a_provider_that_dies_half_way(run_batch: BatchForm) -> None:
    """Each of the 200 has its own answer, in order, the later ones from the next deployment."""
    answers = run_batch(gateway_over(dies_after(100), model(echo)), INPUTS, {"max_concurrency": 8})
    assert contents(answers) == INPUTS
    assert Counter(map(who, answers)) == {"weak": 100, "strong": 100}


def test_200_inputs_whose_providers_all_die_have_an_answer_or_an_error(
    run_batch: BatchForm,
) -> None:
    """Nothing is lost or doubled: so many answers as were given, an error for each of the rest."""
    gateway = gateway_over(dies_after(100), dies_after(50))
    answers = run_batch(gateway, INPUTS, {"max_concurrency": 8}, return_exceptions=True)
    assert len(answers) == 200
    assert Counter(map(type, answers)) == {AIMessage: 150, AllModelsFailedError: 50}
    for text, answer in zip(INPUTS, answers, strict=True):
        if isinstance(answer, AIMessage):
            assert answer.content == text
        else:
            assert [f.model_name for f in answer.failures] == ["weak", "strong"]

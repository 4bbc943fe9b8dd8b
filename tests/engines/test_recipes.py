"""The recipes that need no engine, and the page that shows all of them."""

import json
import re
from pathlib import Path

import pytest

from langchain_model_gateway import GatewayRunnable

from .jobs import RECIPES, ROOT, Job, lines
from .provider import Provider

PAGES = sorted((ROOT / "docs").glob("many-prompts*.md"))
SHOWN = re.compile(r"\[`recipes/([\w.]+)`\][^\n]*\n\n```(?:py|yaml)\n(.*?)^```$", re.M | re.S)


def test_the_pages_show_the_recipes_as_they_are() -> None:
    """What is shown is what is run, of every recipe."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    shown = dict(SHOWN.findall(text))
    files = [path for path in RECIPES.iterdir() if path.is_file()]
    assert shown == {path.name: path.read_text(encoding="utf-8") for path in files}


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.py")), ids=lambda path: path.name)
def test_a_recipe_is_short(recipe: Path) -> None:
    """A recipe has at most twenty-five lines of code, imports not counted."""
    code = [line for line in recipe.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len([line for line in code if not line.startswith(("import ", "from "))]) <= 25


def test_the_recipes_gateway_is_one() -> None:
    """Its file has no mistake."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "test-key")
        gateway = GatewayRunnable.from_config(RECIPES / "gateway.yaml")
    assert gateway.model_names == ("cheap", "strong")


def test_one_process_goes_on_from_its_result_file() -> None:
    """A killed job asks again only for what was not written yet."""
    with Provider(0.2) as provider, Job("one_process.py", provider, 600) as job:
        job.kill_after(150, written=job.folder / "answers.jsonl")
        assert provider.statuses[200] < 600, "it was killed in the middle"
        written = lines(job.folder / "answers.jsonl")
        job.run()
        job.check(lines(job.folder / "answers.jsonl"))
        assert {provider.asked[f"prompt {i}"] for i, _ in written} == {1}


def test_what_a_batch_api_left_is_asked_afterwards() -> None:
    """Only rows that failed or expired there go through the gateway, once."""
    with Provider() as provider, Job("after_batch_api.py", provider, 0) as job:
        asked = [
            {
                "custom_id": str(i),
                "body": {"messages": [{"role": "user", "content": f"prompt {i}"}]},
            }
            for i in range(5)
        ]
        given = [
            {"custom_id": "0", "response": {"status_code": 200, "body": {}}, "error": None},
            {"custom_id": "1", "response": {"status_code": 500, "body": {}}, "error": None},
            {"custom_id": "2", "response": None, "error": {"code": "batch_expired"}},
        ]
        for name, rows in (("batch_input", asked), ("batch_output", given)):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (job.folder / f"{name}.jsonl").write_text(text)
        job.run()
        job.run()
        assert dict(provider.asked) == {f"prompt {i}": 1 for i in (1, 2, 3, 4)}
        text = (job.folder / "answers.jsonl").read_text()
        answers = {row["custom_id"]: row["answer"] for row in map(json.loads, text.splitlines())}
        assert answers == {str(i): f"answer to prompt {i}" for i in (1, 2, 3, 4)}

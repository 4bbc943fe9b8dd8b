"""`python -m langchain_model_gateway`: what it prints where, and what it exits with."""

import json
import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import pytest
import yaml

from langchain_model_gateway import GatewayRunnable
from langchain_model_gateway.__main__ import main
from tests.test_config import TOML, YAML

COMMAND = [sys.executable, "-W", "error", "-m", "langchain_model_gateway"]

FINE = """\
models:
  - model_name: cheap
    model: openai:gpt-4o-mini
    with: {max_retries: 0, timeout: 20, api_key: {env: CHEAP_KEY}}
    time_constraints: [["22:00", "06:00"]]
  - model_name: strong
    model: openai:gpt-4o
    with: {max_retries: 0, timeout: 20, api_key: {env: STRONG_KEY}}
"""


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHEAP_KEY", "STRONG_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fine(tmp_path: Path) -> str:
    return written(tmp_path, FINE)


def written(folder: Path, text: str, name: str = "gateway.yaml") -> str:
    path = folder / name
    path.write_text(dedent(text), encoding="utf-8")
    return str(path)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


# --- check -----------------------------------------------------------------------------------


def test_check_a_good_file(fine: str) -> None:
    """A file without mistakes and findings exits with 0, also strictly, and says what is in it."""
    done = run("check", fine, "--strict", CHEAP_KEY="a-key", STRONG_KEY="another")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{fine}: 2 deployments (cheap, strong)\nNothing found.\n"


def test_check_a_bad_file(tmp_path: Path) -> None:
    """A file with mistakes exits with 2 and tells them on standard error, a line each."""
    path = written(tmp_path, "models:\n  - {model_name: x, model: 'opnai:x'}\ntimeout: soon")
    done = run("check", path)
    assert (done.returncode, done.stdout) == (2, "")
    first, second, last = done.stderr.splitlines()
    assert first.startswith(f"{path}:2: models[0].model: the provider 'opnai' is unknown")
    assert second.startswith(f"{path}:3: timeout: ")
    assert last == "2 mistakes found"


@pytest.mark.parametrize(
    "arguments", [["check"], ["check", "--strict"], ["explain"], ["explain", "--at", "23:00"]]
)
@pytest.mark.parametrize("text", ["", "a: [", "models: 3", "&a [*a]", "\tx", "- 22:00", "x: !y z"])
def test_no_traceback_for_a_bad_file(tmp_path: Path, text: str, arguments: list[str]) -> None:
    """Whatever is wrong in a file, the exit code is 2."""
    assert main([*arguments, written(tmp_path, text)]) == 2


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there is told by its name."""
    assert main(["check", "no-such.yaml"]) == 2
    told = "no-such.yaml: it cannot be read: No such file or directory\n1 mistake found\n"
    assert capsys.readouterr() == ("", told)


def test_missing_variables(fine: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable that is not set is a mistake, unless a placeholder may stand for it."""
    assert main(["check", fine]) == 2
    told = capsys.readouterr().err
    assert f"{fine}:4: models[0].with.api_key: the environment variable CHEAP_KEY is not" in told
    assert "STRONG_KEY" in told
    assert main(["check", fine, "--allow-missing-env", "--strict"]) == 0
    assert capsys.readouterr().out.endswith("Nothing found.\n")


def test_keys_that_clients_look_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A placeholder stands also for a key that the file leaves to the client."""
    path = written(tmp_path, "models:\n  - {model_name: one, model: 'openai:gpt-4o'}")
    assert main(["check", path]) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err
    assert main(["check", path, "--allow-missing-env"]) == 0


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ("temperature: warm, api_key: {env: CHEAP_KEY}", "with.temperature"),
        ("temperature: warm", "with.temperature"),
        ("api_key: sk-hunter2hunter2", "with.api_key"),
        ("api_key: {env: CHEAP_KEY}, temperatur: 1", "with.temperatur"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*temperatur is not default")
def test_mistakes_beside_missing_variables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keywords: str, problem: str
) -> None:
    """Without keys, the mistakes around them are found all the same, and no others."""
    model = f"{{model_name: one, model: 'openai:gpt-4o', with: {{{keywords}}}}}"
    path = written(tmp_path, f"models:\n  - {model}")
    assert main(["check", path, "--allow-missing-env"]) == 2
    mistake, count = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")
    ]
    assert mistake.startswith(f"{path}:2: models[0].{problem}: ")
    assert count == "1 mistake found"


def test_a_missing_variable_that_is_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A placeholder in a number's place is no mistake; what it stands for is left out."""
    text = FINE.replace("timeout: 20,", "timeout: {env: SECONDS},", 1)
    text += "    stall_timeout: {env: STALL}\ntimeout: {env: LIMIT}\n"
    path = written(tmp_path, f"{text}retry: {{max_attempts: {{env: MOST}}}}\n")
    assert main(["check", path, "--allow-missing-env"]) == 0
    assert "2 deployments (cheap, strong)" in capsys.readouterr().out


def test_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Findings exit with 1 only strictly; in a pipe each is one line with tabs."""
    path = written(tmp_path, FINE.replace("max_retries: 0, ", "") + "retry: {max_attempts: 2}\n")
    assert main(["check", path, "--allow-missing-env"]) == 0
    capsys.readouterr()
    assert main(["check", path, "--allow-missing-env", "--strict"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    head, *rows = [line.split("\t") for line in out.splitlines()]
    assert len(head) == 1
    assert [(code, names) for code, names, _, _ in rows] == [
        ("client-retries", "cheap"),
        ("client-retries", "strong"),
    ]


def test_placeholders_are_one_a_variable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Deployments with two variables share no key, those with one variable do."""
    assert main(["check", written(tmp_path, FINE), "--allow-missing-env", "--strict"]) == 0
    capsys.readouterr()
    text = FINE.replace("STRONG_KEY", "CHEAP_KEY")
    assert main(["check", written(tmp_path, text), "--allow-missing-env", "--strict"]) == 1
    assert "cheap, strong" in capsys.readouterr().out.partition("\n")[2]


def test_warnings_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a client or the gateway warns of is a line on standard error, and no finding."""
    keywords = "{max_retries: 0, timeout: 9, api_key: {env: CHEAP_KEY}, colour: 1}"
    path = written(tmp_path, f"models:\n- {{model_name: one, model: 'openai:m', with: {keywords}}}")
    assert main(["check", path, "--allow-missing-env"]) == 0
    told = capsys.readouterr().err
    assert all(line.startswith("warning: ") for line in told.splitlines())
    assert "one deployment only" in told
    assert "colour" in told


# --- explain ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "order"),
    [
        (["--at", "2026-01-05T23:30Z"], ["strong"]),
        (["--at", "2026-01-05T12:00+01:00"], ["cheap", "strong"]),
        (["--at", "23:30"], ["strong"]),
        (["--at", "T12:30"], ["cheap", "strong"]),
        (["--at", "00:30+02:00"], ["strong"]),
        (["--at", "12:00", "--prefer", "strong"], ["strong", "cheap"]),
    ],
)
def test_explain(
    fine: str, capsys: pytest.CaptureFixture[str], arguments: list[str], order: list[str]
) -> None:
    """It tells who would be tried at a time, without any key, and who not and why."""
    assert main(["explain", fine, *arguments]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for rank, name, _ in rows if rank != "-"] == order
    skipped = [(name, why.partition(",")[0]) for rank, name, why in rows if rank == "-"]
    expected = [] if "cheap" in order else [("cheap", "skipped: restricted 22:00-06:00 UTC")]
    assert skipped == expected


def test_explain_now(fine: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a time, it is about now."""
    assert main(["explain", fine]) == 0
    assert "strong" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["chek"],
        ["check"],
        ["check", "a.yaml", "--stric", "x"],
        ["explain", "a.yaml", "--at", "noon"],
        ["explain", "a.yaml", "--at", "2026-01-05"],
        ["explain", "a.yaml", "--at", "2026-01-05T23:30"],
        ["explain", "a.yaml", "--at", "0001-01-01T00:00+14:00"],
        ["explain", "a.yaml", "--at", "9999-12-31T23:59Z"],
        ["schema", "a.yaml"],
    ],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments exit with 2 and a line that says what is wrong."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_preference_that_is_unknown(fine: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown preference exits with 2 and the nearest name."""
    assert main(["explain", fine, "--prefer", "stong"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("--prefer: 'stong' is unknown; did you mean strong? there are: cheap,")


# --- in a terminal ---------------------------------------------------------------------------


def in_a_terminal(*arguments: str) -> str:
    """What a command prints where standard output is a terminal."""
    master, slave = pty.openpty()
    with subprocess.Popen([*COMMAND, *arguments], stdout=slave, stderr=subprocess.PIPE):
        os.close(slave)
        printed = b""
        try:
            while part := os.read(master, 4096):
                printed += part
        except OSError:  # the terminal is closed
            pass
    os.close(master)
    return printed.decode().replace("\r\n", "\n")


def test_a_plan_in_a_terminal(fine: str) -> None:
    """In a terminal, a plan is the table that it prints."""
    table = in_a_terminal("explain", fine, "--at", "2026-01-05T23:30Z")
    assert table.startswith("At 2026-01-05 23:30:00 UTC, in this order:\n  1  strong  would be")


def test_findings_in_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a terminal, findings are the table that they print."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    path = written(tmp_path, FINE.replace("max_retries: 0, ", "") + "retry: {max_attempts: 2}\n")
    assert main(["check", path, "--allow-missing-env"]) == 0
    table = capsys.readouterr().out
    assert "\nclient-retries: cheap\n    the client makes up to" in table
    assert "\t" not in table


def test_a_reader_that_stops(fine: str) -> None:
    """A pipe that is closed early is no error."""
    command = f"{' '.join(COMMAND)} schema | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{", "")


# --- schema ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> Any:
    done = subprocess.run([*COMMAND, "schema"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def errors(schema: Any, data: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    return ["/".join(map(str, error.absolute_path)) for error in validator.iter_errors(data)]


def test_the_schema_is_one(schema: Any) -> None:
    """It is a JSON schema with each key that a file may have, and says what each is for."""
    jsonschema.Draft202012Validator.check_schema(schema)
    keys = schema["properties"]
    assert keys.keys() <= GatewayRunnable.model_fields.keys()
    assert keys.keys() >= {"models", "retry", "cooldown", "timeout", "reject", "model_preference"}
    assert all(key.get("description") for key in keys.values())
    deployment = schema["$defs"]["ModelDeployment"]["properties"]
    assert deployment.keys() >= {"model_name", "model", "with", "time_constraints", "timeout"}
    assert all(key.get("description") for key in deployment.values())
    assert "timedelta" not in json.dumps(schema)
    assert not {"gt", "ge", "lt", "le"} & {*json.dumps(schema).split('"')}


def test_good_files_fit_the_schema(schema: Any) -> None:
    """What `from_config` takes, an editor finds nothing in."""
    assert errors(schema, yaml.safe_load(YAML)) == []
    toml = tomllib.loads(TOML.replace("12:00:00", '"12:00"'))  # JSON has no times
    assert errors(schema, toml) == []
    inner = {"model_name": "outer", "model": yaml.safe_load(YAML)}
    assert errors(schema, {"models": [inner]}) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"timout": 3}, ""),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"retry": {"max_attempts": 0}}, "retry"),
        ({"retry": {"max_atempts": 2}}, "retry"),
        ({"reject": ["lenght"]}, "reject/0"),
        ({"models": [{"model_name": "x"}]}, "models/0"),
        ({"models": [{"model_name": "x", "model": 3}]}, "models/0/model"),
        (
            {"models": [{"model_name": "x", "model": "m", "with": {"api_key": "k"}}]},
            "models/0/with/api_key",
        ),
        (
            {"models": [{"model_name": "x", "model": "m", "time_constraints": [["1:00", 60]]}]},
            "models/0/time_constraints/0",
        ),
    ],
)
def test_mistakes_do_not_fit_the_schema(schema: Any, change: dict[str, Any], where: str) -> None:
    """An editor sees the mistakes that can be seen without a provider."""
    assert errors(schema, yaml.safe_load(YAML) | change) == [where]


# --- help, and costs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["-h"], ["check", "-h"], ["explain", "-h"], ["schema", "-h"]]
)
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Help names the command as it is called, and fits in 80 columns."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: python -m langchain_model_gateway")
    assert max(map(len, told.splitlines())) <= 80


def test_the_schema_needs_no_provider() -> None:
    """Nothing is imported that a command does not need."""
    code = """
import sys
from langchain_model_gateway.__main__ import main
main(["schema"])
loaded = {"langchain", "langchain_openai", "openai", "tomllib", "langgraph"} & sys.modules.keys()
sys.exit(", ".join(loaded) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

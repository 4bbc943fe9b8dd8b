"""`python -m langchain_model_gateway`: look at a configuration without making a call."""

import argparse
import inspect
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, time
from io import TextIOWrapper
from typing import Any, Final, NoReturn

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import CoreSchema, PydanticOmit, core_schema

from langchain_model_gateway._arguments import unknown_name
from langchain_model_gateway._logger import logger
from langchain_model_gateway._text import one_line, redact
from langchain_model_gateway.config import KEYWORDS, build
from langchain_model_gateway.documents import ConfigError, ConfigProblem
from langchain_model_gateway.gateway import GatewayRunnable

_ONLY_CODE: Final = re.compile(r",? (?:\(or a|or as a) `timedelta`\)?")
# Pydantic leaves its own words where a value is converted before it is compared.
_STANDARD: Final = {"gt": "exclusiveMinimum", "ge": "minimum"} | {
    "lt": "exclusiveMaximum",
    "le": "maximum",
}

OK, FINDINGS, WRONG = 0, 1, 2

_A_MOMENT: Final = "2026-01-05T23:30Z, or 23:30 for today in UTC"
_YEARS: Final = (1970, 2999)

_EXIT_CODES: Final = """\
exit codes:
  0  all is well
  1  check --strict: something was found
  2  the file or an argument is wrong
"""


# --- commands --------------------------------------------------------------------------------


def check(arguments: argparse.Namespace) -> int:
    """Validate a file, and print what would hurt in production."""
    gateway = _gateway(arguments.file, needs_keys=not arguments.allow_missing_env)
    names = ", ".join(one_line(name, 60) for name in gateway.model_names)
    findings = gateway.diagnose()
    _print(f"{arguments.file}: {_counted(len(gateway), 'deployment')} ({names})")
    if sys.stdout.isatty() or not findings:
        _print(str(findings))
    for each in [] if sys.stdout.isatty() else findings:
        _row(each.code, ", ".join(each.model_names), each.message, each.advice)
    return FINDINGS if findings and arguments.strict else OK


def explain(arguments: argparse.Namespace) -> int:
    """Print which deployments a call would try, in which order, and which not and why."""
    gateway = _gateway(arguments.file, needs_keys=False)
    if arguments.prefer is not None and arguments.prefer not in gateway:
        told = unknown_name(arguments.prefer, gateway.model_names)
        raise ConfigError([ConfigProblem(None, None, "--prefer", told)])
    plan = gateway.explain(arguments.prefer, arguments.at)
    if sys.stdout.isatty():
        _print(str(plan))
        return OK
    deferred = {each.model_name: each.describe() for each in plan.deferred}
    for rank, name in enumerate(plan.order, start=1):
        _row(str(rank), name, deferred.get(name, "would be tried"))
    for skip in plan.skipped:
        _row("-", skip.model_name, f"skipped: {skip.describe()}")
    return OK


def schema(_: argparse.Namespace) -> int:
    """Print the JSON schema of a configuration file."""
    _print(json.dumps(json_schema(), indent=2))
    return OK


def _gateway(file: str, *, needs_keys: bool) -> GatewayRunnable:
    return build(GatewayRunnable, file, {}, GatewayRunnable, needs_keys=needs_keys)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _row(*cells: str) -> None:
    _print("\t".join(map(one_line, cells)))


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


# --- the schema ------------------------------------------------------------------------------


class _FileSchema(GenerateJsonSchema):
    """What a file can hold of the classes: nothing that only code has."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012 - pydantic's own
        "skipped-choice",
        "non-serializable-default",
    }

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> NoReturn:
        raise PydanticOmit

    def is_subclass_schema(self, schema: core_schema.IsSubclassSchema) -> JsonSchemaValue:
        return {"type": "string"}  # an exception class, by its name

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        made["description"] = (inspect.getdoc(schema["cls"]) or "").partition("\n")[0]
        for name, description in described(schema["cls"]):
            if name in made.get("properties", {}):
                made["properties"][name].setdefault("description", description)
        return made


def described(cls: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The arguments of a class, each with what its docstring says of it."""
    section = (inspect.getdoc(cls) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    for name, text in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE):
        yield name, _ONLY_CODE.sub("", " ".join(text.split()))


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration file."""
    made = GatewayRunnable.model_json_schema(schema_generator=_FileSchema)
    parts = made["$defs"]
    variable = {
        "type": "object",
        "description": "The value of an environment variable.",
        "properties": {"env": {"type": "string"}},
        "required": ["env"],
        "additionalProperties": False,
    }
    time_of_day = {"type": "string", "pattern": r"^\d{1,2}:\d{1,2}$"}
    pair = {"type": "array", "items": time_of_day, "minItems": 2, "maxItems": 2}
    deployment = parts["ModelDeployment"]["properties"]
    deployment["model"] = {
        "anyOf": [{"type": "string"}, {"$ref": "#"}],
        "description": "'provider:model' as init_chat_model takes it, or a gateway.",
    }
    deployment[KEYWORDS] = {
        "type": "object",
        "description": "Keywords of the model. A secret is only ever {env: NAME}.",
        "properties": {"api_key": {"$ref": "#/$defs/Variable"}},
    }
    window = parts["TimeWindow"]
    window["properties"] |= {"start": time_of_day, "end": time_of_day}
    parts |= {"Variable": variable, "TimeWindow": {"anyOf": [pair, window]}}
    parts["ModelDeployment"]["required"] = ["model_name", "model"]
    made |= {"title": "A gateway's configuration"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_standard(made)}


def _standard(made: Any) -> Any:
    if isinstance(made, dict):
        return {_STANDARD.get(key, key): _standard(value) for key, value in made.items()}
    return [_standard(each) for each in made] if isinstance(made, list) else made


# --- the command line ------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments; the process's own if left out.

    Returns:
        The exit code: 0, 1 for findings with `check --strict`, 2 for what is wrong.

    Raises:
        SystemExit: If the arguments are wrong, or ask for help.
    """
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        with _warnings_shown():
            code = run(arguments)
        sys.stdout.flush()
    except ConfigError as error:
        for problem in error.problems:
            _complain(str(problem))
        _complain(f"{_counted(len(error.problems), 'mistake')} found")
        return WRONG
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Show warnings and the package's log on standard error, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for text in dict.fromkeys(str(each.message) for each in caught):
            _complain(f"warning: {one_line(redact(text), 300)}")
    finally:
        logger.removeHandler(handler)


def _moment(text: str) -> datetime:
    """A moment as it is typed: ISO 8601 with an offset, or a time of today in UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            clock = time.fromisoformat(text)
        except ValueError:
            told = f"{one_line(text, 40)!r} is no time: write {_A_MOMENT}"
            raise argparse.ArgumentTypeError(told) from None
        moment = datetime.combine(datetime.now(UTC), clock, clock.tzinfo or UTC)
    if moment.utcoffset() is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no timezone: write {_A_MOMENT}")
    if not _YEARS[0] <= moment.year <= _YEARS[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not between {_YEARS[0]} and {_YEARS[1]}")
    return moment


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m langchain_model_gateway",
        description="Look at a gateway's configuration file. No model is called.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.set_defaults(run=run)
        if run is not schema:
            command.add_argument("file", metavar="FILE", help="a .yaml, .yml or .toml file")
        return command

    checking = add(check, "Validate a file, and print what would hurt in production.")
    checking.add_argument("--strict", action="store_true", help="exit with 1 if anything is found")
    checking.add_argument(
        "--allow-missing-env",
        action="store_true",
        help="let a placeholder stand for each variable that is not set, as in CI without keys",
    )
    explaining = add(explain, "Print who would be tried in which order, and who not and why.")
    explaining.add_argument("--at", metavar="TIME", type=_moment, help=_A_MOMENT)
    explaining.add_argument("--prefer", metavar="NAME", help="the deployment to try first")
    add(schema, "Print the JSON schema of such a file, for editors.")
    return parser


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # no terminal is too old for a name
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())

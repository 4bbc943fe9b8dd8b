"""A configuration as plain data that remembers which line each value stands in."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from langchain_model_gateway._arguments import shown
from langchain_model_gateway._text import one_line, redact

if TYPE_CHECKING:
    import yaml

Keys: TypeAlias = tuple[str | int, ...]
"""Where a value stands in the data: the keys and positions that lead to it."""

_MOST_BYTES: Final = 1_000_000
_MOST_VALUES: Final = 50_000
MOST_DEPTH: Final = 30
_MOST_SHOWN: Final = 30
_MOST_TEXT: Final = 600
_LEAST_SECRET: Final = 4

_YAML_TAG: Final = "tag:yaml.org,2002:"
_YAML_TEXTS: Final = frozenset(_YAML_TAG + kind for kind in ("str", "value", "merge"))
_YAML_KINDS: Final = _YAML_TEXTS | frozenset(
    _YAML_TAG + kind for kind in ("map", "seq", "int", "float", "bool", "null", "timestamp")
)
_BARE_TIME: Final = re.compile(r"[\[=,]\s*\d?\d:\d\d\s*(?:[\],#]|$)")

_TOML_PART: Final = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_TOML_KEY: Final = rf"({_TOML_PART}(?:\s*\.\s*{_TOML_PART})*)"
_TOML_TABLE: Final = re.compile(rf"\s*(\[\[?)\s*{_TOML_KEY}\s*\]\]?\s*(?:#.*)?")
_TOML_VALUE: Final = re.compile(rf"\s*{_TOML_KEY}\s*=")


class ConfigProblem(NamedTuple):
    """A mistake in a configuration.

    Attributes:
        file: The file, as it was given; `None` if the configuration is a mapping or a keyword.
        line: The line in it, from 1; `None` if there is none or it is not known.
        key: The key, such as "models[0].with.temperature"; "" for the whole.
        message: What is wrong, and what to do.
    """

    file: str | None
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigError(ValueError):
    """A configuration is wrong: all its mistakes, in the order of their lines.

    Attributes:
        problems: The mistakes, each with its file, line and key.
    """

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:_MOST_SHOWN]]
        if (more := len(self.problems) - len(lines)) > 0:
            lines.append(f"and {more} more")
        if len(lines) == 1:
            return lines[0]
        return "\n  ".join([f"{len(self.problems)} mistakes in the configuration:", *lines])


class Document:
    """A configuration's data, the lines its values stand in, and the mistakes found so far.

    Attributes:
        data: The configuration; `None` if it could not be read.
        file: The file it is from, if it is from one.
        lines: The line of each value, where it is known.
        secrets: What no message may show, by value.
        settled: Where nothing more is told, since it is told already or a value was made up.
        elsewhere: Keys that do not come from the file.
    """

    def __init__(self, file: str | None = None, data: Any = None) -> None:
        self.data = data
        self.file = file
        self.lines: dict[Keys, int] = {}
        self.secrets: set[str] = set()
        self.settled: set[Keys] = set()
        self.elsewhere: Collection[str] = ()
        self._problems: list[ConfigProblem] = []

    def tell(
        self, keys: Keys, message: str, line: int | None = None, *, is_settled: bool = True
    ) -> None:
        """Note a mistake; where one is settled already, nothing."""
        if is_settled and keys in self.settled:
            return
        if is_settled:
            self.settled.add(keys)
        is_ours = not (keys and keys[0] in self.elsewhere)
        secrets = [secret for secret in self.secrets if len(secret) >= _LEAST_SECRET]
        self._problems.append(
            ConfigProblem(
                self.file if is_ours else None,
                (line or self._line_of(keys)) if is_ours else None,
                redact(_written(keys)),
                one_line(redact(message, secrets), _MOST_TEXT),
            )
        )

    @property
    def has_problems(self) -> bool:
        """Whether a mistake is noted."""
        return bool(self._problems)

    def check(self) -> None:
        """Raise a `ConfigError` if there are mistakes."""
        if self._problems:
            raise ConfigError(sorted(self._problems, key=lambda problem: problem.line or 0))

    def _line_of(self, keys: Keys) -> int | None:
        """The line of a value; where it has none, of what is around it."""
        found = (self.lines.get(keys[:end]) for end in range(len(keys), 0, -1))
        return next((line for line in found if line), None)


def _written(keys: Keys) -> str:
    parts = (f"[{key}]" if isinstance(key, int) else f".{one_line(key, 60)}" for key in keys)
    return "".join(parts).removeprefix(".")


def read(source: object) -> Document:
    """Read a configuration.

    Args:
        source: The path of a YAML or TOML file, or the data itself.

    Raises:
        ConfigError: If it cannot be read at all; what is wrong inside is in the document.
    """
    if isinstance(source, Mapping):
        return Document(data=source)
    if isinstance(source, (str, PathLike)) and isinstance(fspath(source), str):
        document = _read_file(fspath(source))
    else:
        document = Document()
        document.tell((), f"a configuration is a file's path or a mapping, got {shown(source)}")
    if document.data is not None and not isinstance(document.data, dict):
        kind = type(document.data).__name__
        document.tell((), f"a configuration is a mapping with the key 'models', got {kind}")
        document.data = None
    if document.data is None:
        document.tell((), "the file is empty; write at least 'models'")
        document.check()
    return document


def _read_file(path: str) -> Document:
    document = Document(redact(one_line(path, 200)))
    readers = {".yaml": _read_yaml, ".yml": _read_yaml, ".toml": _read_toml}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        document.tell((), "a configuration file ends in .yaml, .yml or .toml")
    elif (text := _text_of(document, path)) is not None:
        try:
            reader(document, text)
        except RecursionError:
            document.tell((), "it is nested too deep")
    return document


def _text_of(document: Document, path: str) -> str | None:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        document.tell((), f"it cannot be read: {getattr(error, 'strerror', None) or error}")
        return None
    if len(content) > _MOST_BYTES:
        document.tell((), f"it has more than {_MOST_BYTES:,} bytes, too many for a configuration")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        document.tell((), "it is not UTF-8 text", line)
        return None


# --- YAML ------------------------------------------------------------------------------------


def _read_yaml(document: Document, text: str) -> None:
    import yaml  # noqa: PLC0415 - only for YAML

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = ": ".join(part for part in (error.context, error.problem) if part)
        document.tell((), f"broken YAML: {told}", mark.line + 1 if mark else None)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.tell((), f"broken YAML: {error.reason}", line)
    except (ValueError, OverflowError) as error:  # an escape that is no character
        document.tell((), f"broken YAML: {error}")
    else:
        document.data = None if root is None else _YamlReader(document).value(root, ())


class _YamlReader:
    """Makes data of YAML's nodes: safe values only, each with its line."""

    def __init__(self, document: Document) -> None:
        import yaml  # noqa: PLC0415 - only for YAML

        self.yaml = yaml
        self.document = document
        self.scalars = yaml.constructor.SafeConstructor()
        self.left = _MOST_VALUES

    def value(self, node: "yaml.Node", keys: Keys) -> Any:
        # An alias may stand for an anchor full of aliases, or for what it stands in.
        self.left -= 1
        if self.left < 0 or len(keys) > MOST_DEPTH:
            told = "it holds too many values, or is nested too deep"
            return self.document.tell((), told, _line(node))
        if node.tag not in _YAML_KINDS:
            told = f"the tag {node.tag!r} is not taken; a variable is {{env: NAME}}"
            return self.document.tell(keys, told, _line(node))
        if isinstance(node, self.yaml.MappingNode):
            return self.mapping(node, keys)
        if isinstance(node, self.yaml.SequenceNode):
            return [self.item(item, (*keys, i)) for i, item in enumerate(node.value)]
        return self.scalar(node, keys)

    def item(self, node: "yaml.Node", keys: Keys) -> Any:
        self.document.lines.setdefault(keys, _line(node))
        return self.value(node, keys)

    def mapping(self, node: "yaml.Node", keys: Keys) -> dict[str, Any]:
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged = []
        for key_node, value_node in node.value:
            key, line = str(key_node.value), _line(key_node)
            if key_node.tag == f"{_YAML_TAG}merge":
                merged.append(value_node)
            elif not isinstance(key_node, self.yaml.ScalarNode):
                self.document.tell(keys, "a key is a text, not a list or a mapping", line)
            elif key in first:
                told = f"the key {key!r} is there already, in line {first[key]}"
                self.document.tell((*keys, key), told, line, is_settled=False)
            else:
                first[key] = line
                self.document.lines.setdefault((*keys, key), line)
                found[key] = self.value(value_node, (*keys, key))
        for base in merged:
            self.merge(base, keys, found)
        return found

    def merge(self, node: "yaml.Node", keys: Keys, found: dict[str, Any]) -> None:
        """Add what `<<: *base` stands for, under the mapping's own keys."""
        bases = node.value if isinstance(node, self.yaml.SequenceNode) else [node]
        for base in bases:
            if not isinstance(base, self.yaml.MappingNode):
                self.document.tell(keys, "'<<' takes a mapping, such as *base", _line(node))
                continue
            for key, value in (self.value(base, keys) or {}).items():
                found.setdefault(key, value)

    def scalar(self, node: "yaml.Node", keys: Keys) -> Any:
        if node.tag in _YAML_TEXTS:
            return node.value
        try:
            value = self.scalars.construct_object(node)
        except (ValueError, OverflowError, LookupError, AttributeError):  # of YAML's own reader
            told = f"{shown(node.value)} is no value YAML knows; quote it if it is a text"
            return self.document.tell(keys, told, _line(node))
        if ":" in node.value and isinstance(value, (int, float)):
            text = str(node.value)
            told = f'{text} without quotes is {value} in YAML 1.1: quote the time, "{text}"'
            self.document.tell(keys, told, _line(node))
            return text
        return value


def _line(node: "yaml.Node") -> int:
    return int(node.start_mark.line) + 1


# --- TOML ------------------------------------------------------------------------------------


def _read_toml(document: Document, text: str) -> None:
    import tomllib  # noqa: PLC0415 - only for TOML

    try:
        document.data = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number without end
        told, _, place = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", place)
        line = int(found[1]) if found else text.rstrip().count("\n") + 1 if place else None
        if line and _BARE_TIME.search(text.split("\n")[line - 1]):
            told += "; quote a time"
        document.tell((), f"broken TOML: {told}", line)
    else:
        document.lines.update(_toml_lines(text, document.data))


def _toml_lines(text: str, data: dict[str, Any]) -> Iterator[tuple[Keys, int]]:
    """The lines of tables and keys; what is inside a value has none of its own."""
    table: Keys = ()
    counts: dict[Keys, int] = {}
    closing = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if closing:
            closing = "" if closing in line else closing
            continue
        closing = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), "")
        if header := _TOML_TABLE.fullmatch(line.rstrip("\r")):
            keys = _toml_keys(header[2], counts, is_array=header[1] == "[[")
            # Else it is part of a list.
            table = keys if _has(data, keys) else table
        elif value := _TOML_VALUE.match(line):
            keys = (*table, *_toml_parts(value[1]))
        else:
            continue
        if _has(data, keys):
            yield from ((keys[:end], number) for end in range(len(keys), len(table), -1))
            yield keys, number


def _toml_keys(text: str, counts: dict[Keys, int], *, is_array: bool) -> Keys:
    """The keys of a table's header, with positions where arrays of tables lie on the way."""
    keys: Keys = ()
    *outer, last = _toml_parts(text)
    for part in outer:
        keys = (*keys, part)
        keys = (*keys, counts[keys]) if keys in counts else keys
    keys = (*keys, last)
    if is_array:
        counts[keys] = counts.get(keys, -1) + 1
        keys = (*keys, counts[keys])
    return keys


def _toml_parts(text: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_TOML_PART, text)]


def _has(data: Any, keys: Keys) -> bool:
    return get(data, keys, missing := object()) is not missing


def get(data: Any, keys: Keys, default: Any = None) -> Any:
    """What stands in plain data at the end of `keys`."""
    for key in keys:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return default
    return data

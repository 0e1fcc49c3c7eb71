"""As much of GraphQL as the server of the tests needs: queries parsed, and answered from mappings."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\.\.\.|[_A-Za-z]\w*|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[^\s,]')
_CONSTANTS = {"null": None, "true": True, "false": False}


class GraphQLError(Exception):
    """Becomes an answer with `errors`."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class Variable(str):
    """A `$name` in a query."""


@dataclass
class Field:
    name: str  # "..." for an inline fragment, "...Name" for a named one
    alias: str
    args: Json
    tests: list[tuple[str, Any]]  # @include and @skip
    fields: list[Field]


class Query:
    """A parsed document. Fragments apply whatever the type; variables have no defaults."""

    def __init__(self, text: str):
        self._rest = _TOKEN.findall(re.sub(r"#[^\n]*", "", text))[::-1]
        self.name = ""
        self.fields: list[Field] = []
        self._fragments: dict[str, list[Field]] = {}
        while self._rest:
            kind, name = self._take(), self._take()
            while self._rest[-1] != "{":  # the type of a fragment, the variables of an operation
                self._take()
            if kind == "fragment":
                self._fragments["..." + name] = self._fields()
            else:
                self.name, self.fields = name, self._fields()

    def answer(self, root: Mapping[str, Any], variables: Json) -> Any:
        return self._pick(root, self.fields, variables)

    def _take(self) -> str:
        return str(self._rest.pop())

    def _fields(self) -> list[Field]:
        self._take()
        fields = []
        while self._rest[-1] != "}":
            alias = name = self._take()
            if name == "...":
                target = self._take()
                name += "" if target == "on" and self._take() else target
            elif self._rest[-1] == ":":
                self._take()
                name = self._take()
            args, tests = self._arguments(), []
            while self._rest[-1] == "@":
                self._take()
                tests.append((self._take(), self._arguments()["if"]))
            fields.append(Field(name, alias, args, tests, self._fields() if self._rest[-1] == "{" else []))
        self._take()
        return fields

    def _arguments(self) -> Json:
        return self._value() if self._rest[-1] == "(" else {}

    def _value(self) -> Any:
        token = self._take()
        if token in ("(", "{"):
            pairs = {}
            while self._rest[-1] not in (")", "}"):
                key, _ = self._take(), self._take()
                pairs[key] = self._value()
            self._take()
            return pairs
        if token == "[":
            items = []
            while self._rest[-1] != "]":
                items.append(self._value())
            self._take()
            return items
        if token == "$":
            return Variable(self._take())
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        return json.loads(token) if token[0] in '"-0123456789' else token

    def _fill(self, value: Any, variables: Json) -> Any:
        """Put the variables in; a null argument is as good as none."""
        if isinstance(value, Variable):
            return self._fill(variables.get(value), {})
        if isinstance(value, dict):
            filled = {key: self._fill(item, variables) for key, item in value.items()}
            return {key: item for key, item in filled.items() if item is not None}
        return [self._fill(v, variables) for v in value] if isinstance(value, list) else value

    def _pick(self, value: Any, fields: list[Field], variables: Json) -> Any:
        """Keep of `value` what was asked for. A callable is a field with arguments, or a costly one."""
        if isinstance(value, list):
            return [self._pick(item, fields, variables) for item in value]
        if not isinstance(value, dict):
            return value
        out: Json = {}
        for wanted in fields:
            if any(self._fill(test, variables) == (name == "skip") for name, test in wanted.tests):
                continue
            if wanted.name.startswith("..."):
                out |= self._pick(value, wanted.fields or self._fragments[wanted.name], variables)
                continue
            child = value.get(wanted.name)
            if callable(child):
                child = child(**self._fill(wanted.args, variables))
            out[wanted.alias] = self._pick(child, wanted.fields, variables) if wanted.fields else child
        return out


def page_of(
    items: Sequence[Any],
    show: Callable[[Any], Any] = lambda item: item,
    first: int | None = None,
    after: str | None = None,
    **_: Any,
) -> Json:
    """Return one page of a Relay connection; cursors are positions."""
    start = int(after or 0)
    stop = len(items) if first is None else min(len(items), start + first)
    edges = [{"node": show(items[i]), "cursor": str(i + 1)} for i in range(start, stop)]
    info = {
        "__typename": "PageInfo",
        "endCursor": str(stop) if edges else None,
        "hasNextPage": stop < len(items),
    }
    return {"edges": edges, "pageInfo": info, "totalCount": len(items)}


def encode_id(*parts: Any) -> str:
    return base64.b64encode(":".join(map(str, parts)).encode()).decode()


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""Settings checked against the signatures that they feed: one clear line before a run, not a failure deep inside it."""

import functools
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from sourcewise.core.errors import SourcewiseError, did_you_mean

_HYDRAS: Mapping[str, type] = {
    "_target_": str,
    "_partial_": bool,
    "_convert_": str,
    "_recursive_": bool,
    "_args_": list,
}


def check(node: Any, where: str = "") -> None:
    """Every node of a resolved config that says what it builds (`_target_`) must fit its signature: names and types.

    Raises SourcewiseError that names the setting, its value and what it should be.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            check(value, f"{where}.{key}" if where else str(key))
        for key, kind in _HYDRAS.items():
            if key in node and not isinstance(node[key], kind):
                raise SourcewiseError(f"{where}.{key}={node[key]}: this must be a {kind.__name__}")
        if "_target_" in node:
            try:
                target = pkgutil.resolve_name(node["_target_"])
            except (ImportError, AttributeError, ValueError, TypeError) as error:
                raise SourcewiseError(f"{where}._target_={node['_target_']}: there is no such object") from error
            if not callable(target):
                raise SourcewiseError(f"{where}._target_={node['_target_']}: this cannot be called")
            bind(target, {key: value for key, value in node.items() if key not in _HYDRAS}, where)
    elif isinstance(node, list):
        for position, value in enumerate(node):
            check(value, f"{where}[{position}]")


def top(kind: type, config: Mapping[str, Any]) -> None:
    """Raise SourcewiseError unless a resolved config has the keys and types of the dataclass, and possible values."""
    _possible(config)
    bind(kind, config, "")
    complete(kind, config, "")


def _possible(node: Any, where: str = "") -> None:
    """Raise SourcewiseError for a number of more than 64 bits, or a text that no path or name can be."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            _possible(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list):
        for position, value in enumerate(node):
            _possible(value, f"{where}[{position}]")
    elif isinstance(node, int) and abs(node) >= 2**63:
        raise SourcewiseError(f"{where}={node}: this number is too large")
    elif isinstance(node, str) and "\0" in node:
        raise SourcewiseError(f"{where}={node!r}: no setting holds a null character")


def bind(function: Callable[..., Any], values: Mapping[str, Any], where: str) -> None:
    """Raise SourcewiseError unless the values can be passed to the function by name, as far as its hints tell.

    What it needs and nobody gives is Python's to report: a factory may get more arguments later.
    """
    parameters, hints = _signature(function)
    for name, value in values.items():
        setting = f"{where}.{name}" if where else name
        if name not in parameters:
            if inspect.Parameter.VAR_KEYWORD in {parameter.kind for parameter in parameters.values()}:
                continue
            raise SourcewiseError(f"{setting}: there is no such setting{did_you_mean(name, parameters)}")
        hint = hints.get(name, Any)
        if not _is_built(value) or _is_plain(hint):
            fit(value, hint, setting)


def complete(function: Callable[..., Any], values: Collection[str], where: str) -> None:
    """Raise SourcewiseError if an argument without a default has no value."""
    for name, parameter in _signature(function)[0].items():
        optional = parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        if parameter.default is inspect.Parameter.empty and name not in values and not optional:
            raise SourcewiseError(f"{where}.{name}: this must be given".lstrip("."))


def fit(value: Any, hint: Any, setting: str) -> None:
    """Raise SourcewiseError unless the value is what a hint says."""
    adapter = _adapter(hint)
    if adapter is None:
        if value == [] or type(value) in get_args(hint):
            return
        raise SourcewiseError(f"{setting}={value}: this needs a _target_, the name of what to build")
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors()[-1]["msg"]
        raise SourcewiseError(f"{setting}={value}: {problem[0].lower()}{problem[1:]}") from error


def _is_built(value: Any) -> bool:
    """Whether something in the value will be an object by the time that it is passed."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_is_built, value.values()))
    return isinstance(value, list) and any(map(_is_built, value))


def _is_plain(hint: Any) -> bool:
    """Whether a hint leaves no place for an object that is built: numbers, strings and lists of them."""
    if get_origin(hint) is Annotated:
        return _is_plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType, list, Sequence):
        return all(map(_is_plain, get_args(hint)))
    return hint in (int, float, str, bool, NoneType) or get_origin(hint) is Literal


@functools.cache
def _signature(function: Callable[..., Any]) -> tuple[Mapping[str, inspect.Parameter], Mapping[str, Any]]:
    hinted = function.__init__ if inspect.isclass(function) else function
    return inspect.signature(function).parameters, get_type_hints(hinted, include_extras=True)


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """What checks a value against a hint; None where only an object could pass."""
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a dataclass has a configuration of its own
        return None
    except SchemaError:  # a protocol
        return None

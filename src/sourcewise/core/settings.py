"""Settings checked against the signatures that they feed: one clear line before a run, not a failure deep inside it."""

import functools
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from sourcewise.core.errors import SourcewiseError, did_you_mean

_HYDRA_KEYS: Mapping[str, type] = {
    "_target_": str,
    "_partial_": bool,
    "_convert_": str,
    "_recursive_": bool,
    "_args_": list,
}
"""Keys of a node that Hydra reads itself, and the types of their values."""


def check_config(node: Any, setting: str = "") -> None:
    """Check every node of a resolved config that names what it builds (`_target_`) against that object's signature.

    setting: the dotted name of the node. Raises SourcewiseError with the setting, its value and what it should be.
    """
    for name, value in _children(node, setting):
        check_config(value, name)
    if not isinstance(node, Mapping):
        return
    for key, kind in _HYDRA_KEYS.items():
        if key in node and not isinstance(node[key], kind):
            raise SourcewiseError(f"{setting}.{key}={node[key]}: this must be a {kind.__name__}")
    if "_target_" in node:
        arguments = {key: value for key, value in node.items() if key not in _HYDRA_KEYS}
        check_arguments(_resolved_target(node["_target_"], setting), arguments, setting)


def check_top_level(kind: type, config: Mapping[str, Any]) -> None:
    """Check that a resolved config has the keys of a dataclass, with values of its types that a setting can have.

    Raises SourcewiseError as `check_config` does, also for a key that is missing.
    """
    _check_plain_values(config, "")
    check_call(kind, config, "")


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], setting: str) -> None:
    """Check that a function takes arguments of these names and values, as far as its type hints say.

    A missing argument is no error: a factory may get more arguments later (see `check_call`). setting: the dotted name
    of all arguments together. Raises SourcewiseError for the first argument that does not fit.
    """
    parameters, hints = _signature(function)
    takes_any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name, value in arguments.items():
        full_name = _join(setting, name)
        if name in parameters:
            hint = hints.get(name, Any)
            if not _is_built(value) or _is_plain(hint):
                check_value(value, hint, full_name)
        elif not takes_any_name:
            raise SourcewiseError(f"{full_name}: there is no such setting{did_you_mean(name, parameters)}")


def check_call(
    function: Callable[..., Any], arguments: Mapping[str, Any], setting: str, later: Collection[str] = ()
) -> None:
    """Check as `check_arguments` does, and that only arguments with a default, or of the names `later`, are missing."""
    check_arguments(function, arguments, setting)
    for name, parameter in _signature(function)[0].items():
        is_optional = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not is_optional and name not in {*arguments, *later}:
            raise SourcewiseError(f"{_join(setting, name)}: this must be given")


def check_value(value: Any, hint: Any, setting: str) -> None:
    """Check a value against a type hint, strictly: "1" is no number. Raises SourcewiseError if it does not fit."""
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


def _resolved_target(path: str, setting: str) -> Callable[..., Any]:
    """Return the object at a `_target_`. Raises SourcewiseError when there is none that can be called."""
    try:
        target = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SourcewiseError(f"{setting}._target_={path}: there is no such object") from error
    if not callable(target):
        raise SourcewiseError(f"{setting}._target_={path}: this cannot be called")
    return target  # type: ignore[no-any-return]


def _check_plain_values(node: Any, setting: str) -> None:
    """Raise SourcewiseError for a number of more than 64 bits, or a text that no path or name can be."""
    for name, value in _children(node, setting):
        _check_plain_values(value, name)
    if isinstance(node, int) and abs(node) >= 2**63:
        raise SourcewiseError(f"{setting}={node}: this number is too large")
    if isinstance(node, str) and "\0" in node:
        raise SourcewiseError(f"{setting}={node!r}: no setting holds a null character")


def _children(node: Any, setting: str) -> Iterator[tuple[str, Any]]:
    """Yield the values in a node of a config, each with its dotted name."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield _join(setting, str(key)), value
    elif isinstance(node, list):
        for position, value in enumerate(node):
            yield f"{setting}[{position}]", value


def _join(setting: str, name: str) -> str:
    return f"{setting}.{name}" if setting else name


def _is_built(value: Any) -> bool:
    """Return whether a value is, or holds, a node from which an object is built before the value is passed."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_is_built, value.values()))
    return isinstance(value, list) and any(map(_is_built, value))


def _is_plain(hint: Any) -> bool:
    """Return whether a hint has no place for an object that is built: it is of numbers, text and lists of them."""
    if get_origin(hint) is Annotated:
        return _is_plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType, list, Sequence):
        return all(map(_is_plain, get_args(hint)))
    return hint in (int, float, str, bool, NoneType) or get_origin(hint) is Literal


@functools.cache
def _signature(function: Callable[..., Any]) -> tuple[Mapping[str, inspect.Parameter], Mapping[str, Any]]:
    """Return the parameters of a function or class by name, and their type hints."""
    hinted = function.__init__ if inspect.isclass(function) else function
    return inspect.signature(function).parameters, get_type_hints(hinted, include_extras=True)


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """Return what checks a value against a hint; None where only an object can fit."""
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, SchemaError):  # for a dataclass, which has a configuration of its own, and a protocol
        return None

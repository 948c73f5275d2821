"""Errors that speak to the user: each message names the thing, its value, what it must be and the remedy."""

import reprlib
import traceback

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 3, 80, 80, 80


class UserError(ValueError):
    """An error whose message is all that a user needs; the command line prints it without a traceback.

    Attributes:
        exit_status: of the command that ends with it.
    """

    exit_status = 1


class AudioError(UserError):
    """A recording that cannot be read or written."""


class ConfigError(UserError):
    """A config that cannot be found, read or used."""

    exit_status = 2


class DataError(UserError):
    """Prepared data that cannot be made or used."""


class WriteError(DataError):
    """The disk refuses data, so nothing that follows could be written either."""


class CorpusError(UserError):
    """A synthetic corpus that cannot be made."""


class CorpusArgumentError(CorpusError):
    """Arguments that no synthetic corpus can have."""

    exit_status = 2


def shown(value: object) -> str:
    """A value as text for an error, shortened if it is long or deep."""
    return _SHORT.repr(value)


def require(condition: bool, owner: object, field: str, requirement: str) -> None:
    """Raise a `ConfigError` that names the field and its value, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{type(owner).__name__}.{field} is {shown(getattr(owner, field))}; it must be {requirement}.")


def failure(name: object, error: Exception) -> str:
    """The message for one recording that failed while the others are processed.

    Args:
        name: the recording.
        error: any error.  One that is not meant for users is a bug in jaxpu: the message has its type and its place.
    """
    return str(error) if isinstance(error, UserError) else f"{name}: {_reason(error)}"


def failure_reason(error: Exception) -> str:
    """The message of `failure` without the name of the recording, unless the error has it already."""
    return str(error) if isinstance(error, UserError) else _reason(error)


def _reason(error: Exception) -> str:
    kind, lines = type(error).__name__, str(error).strip().splitlines() or [""]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in lines[0]:  # As XLA says it.
        return f"does not fit into memory ({kind}). Close other programs, use fewer processes, or split the recording."
    if isinstance(error, OSError):
        return f"{lines[0]} ({kind}). Check the recording, the disks and the permissions."
    ours = [
        f"{module}, line {line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if (module := frame.f_globals.get("__name__", "")).partition(".")[0] in ("data_pipeline", "jaxpu")
    ]
    place = ours[-1] if ours else "no place known"
    return f"{kind}: {lines[0]} ({place}). This is a bug in jaxpu: please report it with this line."


def printable(text: str) -> str:
    r"""The text with `\udce9` and the like for bytes of file names that are not UTF-8, which no stream takes as they are."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

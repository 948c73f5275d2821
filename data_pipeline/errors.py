"""Errors that speak to the user: each message names the thing, its value, what it must be and the remedy."""

import reprlib

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


def shown(value: object) -> str:
    """A value as text for an error, shortened if it is long or deep."""
    return _SHORT.repr(value)


def require(condition: bool, owner: object, field: str, requirement: str) -> None:
    """Raise a `ConfigError` that names the field and its value, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{type(owner).__name__}.{field} is {shown(getattr(owner, field))}; it must be {requirement}.")

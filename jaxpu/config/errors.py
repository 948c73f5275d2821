"""The error of configs, and the check that raises it."""

from data_pipeline.errors import UserError


class ConfigError(UserError):
    """A config that cannot be found, read or used."""

    exit_status = 2


def require(condition: bool, owner: object, field: str, requirement: str) -> None:
    """Raise a `ConfigError` that names the field and its value, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{type(owner).__name__}.{field} is {getattr(owner, field)!r}; it must be {requirement}.")

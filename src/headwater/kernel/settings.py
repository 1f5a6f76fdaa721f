"""Settings: where the stores are and how the kernel behaves. Read once, never on import."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf

from headwater.kernel.errors import InvalidValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be set. Each field is also an environment variable: HEADWATER_ and the name in capitals.

    `DATABASE_URL` and `REDIS_URL` are understood too, after HEADWATER_DATABASE_URL and HEADWATER_VALKEY_URL.
    """

    database_url: str = field(default="", repr=False)
    """PostgreSQL for ordinary work; may be a transaction pooler."""
    direct_url: str = field(default="", repr=False)
    """PostgreSQL without a pooler: for locks, LISTEN and migrations. Empty means `database_url`."""
    valkey_url: str = field(default="", repr=False)
    """Valkey; empty means that there is none."""
    pool_size_max: int = 10
    """Connections one process may hold."""
    pool_wait_seconds: float = 5.0
    """How long a caller waits for a free connection before PoolExhausted."""
    connect_timeout_seconds: float = 5.0
    """How long a new connection may take to be made before Unreachable."""
    statement_timeout_ms: int = 30_000
    """PostgreSQL ends a statement that runs longer; 0 means never."""
    transaction_attempts_max: int = 10
    """How often `Headwater.run` tries work that meets serialization failures or deadlocks."""
    change_retention_days: float = 90.0
    """How long the change stream is kept at least: it is the audit log. Required followers hold it longer."""
    pooled: bool = False
    """`database_url` is a transaction pooler: no start-up parameters are sent to it."""
    keyring: str = field(default="", repr=False)
    """Keys for what is encrypted at rest: `name:key` pairs separated by commas; the first one encrypts."""
    keyring_file: str = ""
    """A file with the same, one key a line, where `keyring` is empty."""
    cors_origins: str = ""
    """Origins that browsers may call the service from, separated by commas."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not least <= value < inf:
                raise InvalidValue(f"{name} is {value}.", remedy=f"Set it to {least:g} or more.", field=name)

    @property
    def direct(self) -> str:
        """The DSN without a pooler, in the form asyncpg reads: `postgresql+asyncpg://` is understood too."""
        scheme, separator, rest = (self.direct_url or self.database_url).partition("://")
        return f"{scheme.partition('+')[0]}{separator}{rest}"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None, **given: object) -> Settings:
        """Settings from the environment; what is `given` wins. Raises InvalidValue for a number that is none."""
        env = os.environ if environ is None else environ
        read: dict[str, object] = {}
        for spec in fields(cls):
            raw = env.get(f"HEADWATER_{spec.name.upper()}")
            if raw is not None:
                read[spec.name] = _parse(spec.name, raw, str(spec.type))
        if "database_url" not in read and env.get("DATABASE_URL"):
            read["database_url"] = env["DATABASE_URL"]
        if "valkey_url" not in read and env.get("REDIS_URL"):
            read["valkey_url"] = env["REDIS_URL"]
        settings = cls(**read)  # type: ignore[arg-type]  # each value was parsed by its field's type
        return replace(settings, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # keyword names are checked by replace


_LEAST = {
    "pool_size_max": 1,
    "pool_wait_seconds": 0,
    "connect_timeout_seconds": 0.001,
    "statement_timeout_ms": 0,
    "transaction_attempts_max": 1,
    "change_retention_days": 0,
}


def _parse(name: str, raw: str, kind: str) -> object:
    try:
        if kind == "int":
            return int(raw)
        if kind == "float":
            return float(raw)
    except ValueError:
        raise InvalidValue(
            f"HEADWATER_{name.upper()} is '{raw}', which is not a number.", remedy="Set it to a number or unset it."
        ) from None
    if kind == "bool":
        word = raw.strip().lower()
        if word not in _WORDS:
            raise InvalidValue(
                f"HEADWATER_{name.upper()} is '{raw}', which is neither true nor false.",
                remedy="Set it to true or false.",
            )
        return _WORDS[word]
    return raw


_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False} | {
    "": False
}

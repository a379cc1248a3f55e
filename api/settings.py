"""Settings of a deployment, from the environment. What changes recommendations is in the bundle."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from recsys.events import InputError
from recsys.store import StoreConfig, check_url


@dataclass(frozen=True)
class Settings:
    data_dir: Path = Path("data")  # bundles lie in data_dir/bundles, embedded Redis in .../redis
    redis_url: str = "redis://127.0.0.1:6379/0"
    max_body: int = 2 * 1024 * 1024  # bytes of one request
    poll_seconds: float = 1.0  # how soon a newly published bundle is noticed
    quality_sample: float = 0.05  # share of the sessions that live quality is measured on
    max_wait: float = 0.05  # seconds that a list may wait for others; longer, and it is refused
    store: StoreConfig = field(default_factory=StoreConfig)


def _share(text: str) -> float:
    if not 0 <= (share := float(text)) <= 1:
        raise ValueError(text)
    return share


# Every variable: the setting it fills, how it is read, and what it means.
VARIABLES: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "RECSYS_DATA_DIR": ("data_dir", Path, "folder of bundles and embedded data"),
    "RECSYS_REDIS_URL": ("redis_url", check_url, "redis://, rediss:// or unix://"),
    "RECSYS_MAX_BODY": ("max_body", int, "largest request body, bytes"),
    "RECSYS_POLL_SECONDS": ("poll_seconds", float, "seconds between looks for a new bundle"),
    "RECSYS_QUALITY_SAMPLE": ("quality_sample", _share, "a share of the sessions, 0 to 1"),
    "RECSYS_MAX_WAIT": ("max_wait", float, "seconds of waiting above which lists are refused"),
    "RECSYS_NAMESPACE": ("store.namespace", str, "hash tag of all keys: one per engine"),
    "RECSYS_STORE_TIMEOUT": ("store.timeout", float, "seconds for one Redis round trip"),
    "RECSYS_SESSION_TTL": ("store.session_ttl", int, "seconds a silent session is kept"),
    "RECSYS_USER_TTL": ("store.user_ttl", int, "seconds a silent user's events are kept"),
    "RECSYS_DEDUP_TTL": ("store.dedup_ttl", int, "seconds an event id is remembered"),
    "RECSYS_LOG_MAXLEN": ("store.log_maxlen", int, "events kept in a live log that nobody reads"),
    "RECSYS_MAX_VELOCITY": ("store.max_velocity", float, "faster sessions go into quarantine"),
    "RECSYS_MAX_REPETITION": ("store.max_repetition", int, "events of one item in a session"),
    "RECSYS_MAX_ALIKE": ("store.max_alike", int, "events of a session that are all the same"),
    "RECSYS_LOG_PARTITIONS": ("store.log_partitions", int, "partitions of the live log"),
}


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Settings with defaults where the environment is silent. Raises InputError."""
    values: dict[str, Any] = {}
    for variable, (name, read, meaning) in VARIABLES.items():
        if not (text := environment.get(variable)):
            continue
        try:
            values[name] = read(text)
        except InputError as error:
            raise InputError(f"{variable}: {error}") from error
        except ValueError as error:
            raise InputError(f"{variable}: {text!r} does not fit: {meaning}") from error
        if isinstance(values[name], int | float) and not values[name] > 0 and read is not _share:
            raise InputError(f"{variable}: must be positive, got {text}")
    own = {f.name: values[f.name] for f in fields(Settings) if f.name in values}
    nested = {name.split(".")[1]: value for name, value in values.items() if "." in name}
    return replace(Settings(), **own, store=replace(StoreConfig(), **nested))

"""The settings of a process. They are read from the environment once, and do not change."""

import os
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from db import FAKE_ENGINE
from db.reasons import SET_APART

MIB = 1024 * 1024
EngineChoice = Literal["auto", "openvino", "openvino-f32", "openvino-bf16", "openvino-int8", "keras", "fake"]
ENGINES = tuple(name for name in get_args(EngineChoice) if name != FAKE_ENGINE)
"""The engines that users may choose."""
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(lambda value: str(value).upper())
]
Count = Annotated[int, Field(gt=0)]
CountOrZero = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


def _is_url(value: str) -> bool:
    """Return whether a URL is valid, and names and passwords in it are escaped.

    Parsers do not agree on other URLs: they take a part of the password for the host, the port or the path.
    """
    try:
        parts = urlsplit(value)
        _ = parts.port  # checks it
    except ValueError:
        return False
    after_host = parts.path + parts.query + parts.fragment
    is_escaped = not parts.netloc or (parts.netloc.count("@") <= 1 and "@" not in after_host)
    return "://" in value and is_escaped


def _rules(value: str) -> tuple[str, ...]:
    """Return the names in a text such as "localizer,capture". Raises ValueError."""
    rules = tuple(value.replace(",", " ").split())
    if unknown := set(rules) - set(SET_APART):
        raise ValueError(f"unknown rule {', '.join(sorted(unknown))}; choose from: {', '.join(SET_APART)}")
    return rules


def _engine(value: object) -> object:
    """Return the name of an engine. Raises ValueError."""
    if value not in (*ENGINES, FAKE_ENGINE):
        raise ValueError(f"unknown engine {value}; choose from: {', '.join(ENGINES)}")
    return value


def _home(value: object) -> Path:
    return Path(str(value)).expanduser().absolute()


class Settings(BaseSettings):
    """All settings, read from `CTBATCH_<NAME>`.

    `DATABASE_URL`, `CELERY_BROKER_URL` and `PORT` are also read without the prefix, because hosting platforms set them.
    Secrets can come from files, which `CTBATCH_SECRET_KEY_FILE`, `CTBATCH_METRICS_TOKEN_FILE`, `DATABASE_URL_FILE` and
    `CELERY_BROKER_URL_FILE` name. A secret that is also set without a file is refused.
    """

    # Errors do not show the values of settings, because some are secrets.
    model_config = SettingsConfigDict(env_prefix="CTBATCH_", frozen=True, extra="ignore", hide_input_in_errors=True)

    # Where things live
    home: Annotated[Path, BeforeValidator(_home)] = Field(default="~/.ctbatch", validate_default=True)
    database_url: str = Field(default="", validation_alias=AliasChoices("CTBATCH_DATABASE_URL", "DATABASE_URL"))
    broker_url: str = Field(default="", validation_alias=AliasChoices("CTBATCH_BROKER_URL", "CELERY_BROKER_URL"))
    storage_url: str = ""
    reserve_bytes: CountOrZero = 1024 * MIB  # if less disk is free, nothing is claimed and no upload is accepted
    cache_bytes: CountOrZero = 20 * 1024 * MIB  # for copies of remote files; as much again for model versions

    # Web
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535, validation_alias=AliasChoices("CTBATCH_PORT", "PORT"))
    web_workers: Count = 1
    web_threads: Count = 8  # pages and API calls at the same time, in each process
    web_transfers: Count = 32  # uploads and downloads at the same time, in each process
    secret_key: SecretStr = SecretStr("")
    sign_in_link_seconds: Count = 600
    session_idle_seconds: Count = 1800  # a session ends if no person uses it for this long
    secure_cookies: bool = False
    metrics_token: SecretStr = SecretStr("")  # empty: /metrics is open
    trusted_proxies: CountOrZero = 0  # how many proxies in front may set X-Forwarded-*

    # What is accepted
    max_upload_bytes: Count = 64 * 1024 * MIB
    max_entries: Count = 200_000
    max_unpacked_bytes: Count = 256 * 1024 * MIB
    max_ratio: Count = 200
    max_entry_bytes: Count = 640 * MIB
    max_pixels: Count = 40_000_000
    set_apart: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_rules)] = Field(
        default=",".join(SET_APART), validate_default=True
    )
    decode_seconds: Count = 10
    upload_decode_seconds: Count = 8 * 3600  # processor time to decode all files of an upload
    decode_memory_bytes: Count = 512 * MIB
    allow_unfiltered_decoders: bool = False  # also decode on a machine that cannot set the system call filter
    decoders: CountOrZero = 0  # decoding processes; 0 means one for each core, at most 8

    # Chunks and leases, seconds
    chunk_slices: Count = 128
    first_chunk_slices: Count = 8  # small, so that the first results come soon
    lease_seconds: Seconds = 90
    heartbeat_seconds: Seconds = 15
    sweep_seconds: Seconds = 10
    stall_seconds: Seconds = 300  # a worker without progress for this long kills itself
    reap_every_seconds: Seconds = 3600
    resend_seconds: Seconds = 60  # after this time, the message of a ready row is sent again
    orphan_seconds: SecondsOrZero = 24 * 3600  # after this time, an unused file goes to the trash
    trash_days: Annotated[int, Field(ge=0, le=36_500)] = 14  # files older than this are deleted from the trash
    reread_bytes_per_second: CountOrZero = 4 * MIB  # for reading stored files again, to find damaged ones; 0 reads none

    # Training
    repeatable_training: bool = False  # a repeated run on one machine gives the same weights; uses one core
    checkpoint_seconds: SecondsOrZero = 20  # least time between checkpoints: writing one can take longer than an epoch

    # Promotion
    promotion_margin: float = Field(default=0.02, ge=0, le=1)  # how much worse a candidate may be

    # Engine
    engine: Annotated[EngineChoice, BeforeValidator(_engine)] = "auto"
    engine_threads: CountOrZero = 0  # 0 means one for each core
    crash_at: str = ""  # for tests: the point at which this process kills itself

    log_level: LogLevel = "INFO"

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: Any) -> Any:
        """Read the secrets and the two URLs from files, because containers get their secrets in files.

        Raises ValueError: a secret is also set without a file, so it is not clear which value is right. Or the file is
        empty. Without the secret, a server would be open, or would use another database.
        """
        for name, key, *without_file in (
            ("CTBATCH_SECRET_KEY_FILE", "secret_key", "CTBATCH_SECRET_KEY"),
            ("CTBATCH_METRICS_TOKEN_FILE", "metrics_token", "CTBATCH_METRICS_TOKEN"),
            ("DATABASE_URL_FILE", "DATABASE_URL", "DATABASE_URL", "CTBATCH_DATABASE_URL"),
            ("CELERY_BROKER_URL_FILE", "CELERY_BROKER_URL", "CELERY_BROKER_URL", "CTBATCH_BROKER_URL"),
        ):
            if path := os.environ.get(name):
                if twice := [plain for plain in without_file if os.environ.get(plain)]:
                    raise ValueError(f"{name} and {twice[0]} are both set; unset one of them")
                values[key] = Path(path).read_text().strip()
                if not values[key]:
                    raise ValueError(f"the file that {name} names is empty; write the secret into it, or unset {name}")
        return values

    @model_validator(mode="after")
    def _check_urls(self) -> Self:
        """Raise ValueError if a URL is not valid. The message holds no part of it, because it may hold a password."""
        for name, url in (("DATABASE_URL", self.database_url), ("CELERY_BROKER_URL", self.broker_url)):
            if url and not _is_url(url):
                advice = "percent-encode the name and the password in it, for example / as %2F and @ as %40"
                raise ValueError(f"{name} is not a valid URL; {advice}")
        return self

    @model_validator(mode="after")
    def _check_leases(self) -> Self:
        """Raise ValueError if sound work could lose its lease, or be ended, between two heartbeats."""
        for name, seconds in (("LEASE", self.lease_seconds), ("STALL", self.stall_seconds)):
            if seconds < 2 * self.heartbeat_seconds:
                raise ValueError(f"CTBATCH_{name}_SECONDS must be at least twice CTBATCH_HEARTBEAT_SECONDS")
        return self

    @property
    def time_to_renew(self) -> timedelta:
        """Return how long live workers may need to renew their leases when the database is back."""
        return timedelta(seconds=self.heartbeat_seconds + self.sweep_seconds)

    @property
    def database(self) -> str:
        """Return the SQLAlchemy URL: SQLite in `home`, or the one that is set. PostgreSQL gets the driver psycopg 3."""
        if not self.database_url:
            return f"sqlite:///{self.home / 'ctbatch.db'}"
        for scheme in ("postgres://", "postgresql://"):
            if self.database_url.startswith(scheme):
                return "postgresql+psycopg://" + self.database_url.removeprefix(scheme)
        return self.database_url

    @property
    def storage(self) -> str:
        """Return the fsspec URL or the folder of stored files."""
        return self.storage_url or str(self.home / "files")

    @property
    def run_dir(self) -> Path:
        """Return the folder of sockets, process state and the local token of a running `ctbatch up`."""
        return self.home / "run"

    @property
    def proxy_note(self) -> Path:
        """Return the file in which a web process writes for `ctbatch doctor` what is wrong with the proxies."""
        return self.run_dir / "proxy-note"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of the environment. It is read only at the first call."""
    return Settings()

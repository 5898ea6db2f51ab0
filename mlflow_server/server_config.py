"""The server's YAML file: where it keeps things and who may reach it. It holds no secret."""

import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mlflow_server.errors import TrackingError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
DATABASES = ("sqlite:///", "postgresql://", "postgresql+psycopg://")


class ServerConfig(BaseModel):
    """One tracking server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(description="of the server's own files: credentials, and SQLite and artifacts unless said")
    database: str | None = Field(
        None, description="sqlite:///… or postgresql://USER@HOST/NAME; its password comes from PGPASSWORD or PGPASSFILE"
    )
    artifacts: str | None = Field(None, description="folder or s3://BUCKET/PREFIX, proxied by the server")
    host: str = Field("127.0.0.1", description="address to listen on; beyond this machine only with authentication")
    port: Annotated[int, Field(ge=1, le=65535)] = 5000
    workers: Annotated[int, Field(ge=1, le=32)] = 1
    authentication: bool = True
    allowed_hosts: tuple[str, ...] = Field((), description="values of the Host header, besides loopback: HOST[:PORT]")

    @field_validator("database")
    @classmethod
    def _known_and_without_password(cls, uri: str | None) -> str | None:
        if uri is None:
            return None
        if re.search(r"//[^@]*:[^@]*@", uri) or "password=" in uri:
            raise ValueError("a password does not belong in this file; set PGPASSWORD or PGPASSFILE (mode 0600)")
        if not uri.startswith(DATABASES):
            raise ValueError(f"must begin with one of {', '.join(DATABASES)}")
        return uri.replace("postgresql://", "postgresql+psycopg://", 1)

    @field_validator("artifacts")
    @classmethod
    def _without_keys(cls, place: str | None) -> str | None:
        if place and "://" in place and "@" in place:
            raise ValueError("keys do not belong in this file; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return place

    @field_validator("allowed_hosts")
    @classmethod
    def _no_wildcard(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if wild := [host for host in hosts if "*" in host]:
            raise ValueError(f"{', '.join(wild)}: name the hosts; a wildcard lets any web page in (DNS rebinding)")
        return hosts

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> "ServerConfig":
        if self.host in LOOPBACK:
            return self
        if not self.authentication:
            raise ValueError(f"host {self.host} is reachable from other machines: authentication must be on")
        if not self.allowed_hosts:
            raise ValueError(
                f"host {self.host} is reachable from other machines: say allowed_hosts, e.g. [mlflow:5000]"
            )
        return self

    @property
    def uri(self) -> str:
        """Where a client on this machine reaches it."""
        return f"http://{self.host if self.host in LOOPBACK else '127.0.0.1'}:{self.port}"

    @property
    def backend(self) -> str:
        """The tracking database."""
        return self.database or f"sqlite:///{self.folder.resolve() / 'mlflow.db'}"

    @property
    def destination(self) -> str:
        """Where artifacts go."""
        place = self.artifacts or str(self.folder / "mlartifacts")
        return place if "://" in place else Path(place).resolve().as_uri()

    @property
    def hosts(self) -> str:
        """The values of the Host header that are answered."""
        return ",".join([f"{name}:{self.port}" for name in ("127.0.0.1", "localhost")] + list(self.allowed_hosts))


def load(path: Path) -> ServerConfig:
    """Read a server's file.

    Raises:
        TrackingError: it cannot be read or says what cannot be; names every key.
    """
    try:
        content: Any = yaml.safe_load(path.read_text())
        return ServerConfig.model_validate(content or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise TrackingError(f"{path}: {str(problem).splitlines()[0]}") from problem
    except ValidationError as found:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg'].removeprefix('Value error, ')}"
            for e in found.errors(include_input=False)
        ]
        raise TrackingError(f"{path}: " + "; ".join(problems)) from None

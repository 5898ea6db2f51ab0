"""The server's YAML file: where it keeps things and who may reach it. It holds no secret."""

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from mlflow_server.database_path import SQLITE, embedded, problem_of
from mlflow_server.errors import TrackingError
from mlflow_server.reach import has_password

LOOPBACK = frozenset({"127.0.0.1", "localhost"})
EVERYWHERE = "0.0.0.0"  # noqa: S104 - the word for all addresses of this machine, loopback too
HOST = re.compile(r"[\w.-]+(:[0-9]+)?")
DATABASES = (SQLITE, "postgresql://", "postgresql+psycopg://")
IN_MEMORY = {SQLITE, f"{SQLITE}:memory:"}


class ServerConfig(BaseModel):
    """One tracking server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(description="of the server's own files: credentials, and SQLite and artifacts unless said")
    database: str | None = Field(
        None, description="sqlite:///… or postgresql://USER@HOST/NAME; its password comes from PGPASSWORD or PGPASSFILE"
    )
    artifacts: str | None = Field(None, description="folder or s3://BUCKET/PREFIX, proxied by the server")
    host: str = Field("127.0.0.1", description="address to listen on; beyond this machine only with authentication")
    port: Annotated[int, Field(ge=1, le=65535, strict=True)] = 5000
    workers: Annotated[int, Field(ge=1, le=32, strict=True)] = 1
    authentication: bool = True
    allowed_hosts: tuple[str, ...] = Field((), description="values of the Host header, besides loopback: HOST[:PORT]")

    @field_validator("folder")
    @classmethod
    def _at_home(cls, folder: Path) -> Path:
        if folder == Path():
            raise ValueError("name a folder")
        if problem := problem_of(folder.expanduser().absolute()):
            raise ValueError(problem)
        return folder.expanduser()

    @field_validator("host")
    @classmethod
    def _no_ipv6(cls, host: str) -> str:
        if ":" in host or not host:
            raise ValueError(f"{host!r}: give an IPv4 address or a name; MLflow answers no Host header of IPv6")
        return host

    @field_validator("database")
    @classmethod
    def _known_and_without_password(cls, uri: str | None) -> str | None:
        if uri is None:
            return None
        if has_password(uri):
            raise ValueError("a password does not belong in this file; set PGPASSWORD or PGPASSFILE (mode 0600)")
        if not uri.startswith(DATABASES):
            raise ValueError(f"must begin with one of {', '.join(DATABASES)}")
        if uri in IN_MEMORY:
            raise ValueError("a database in memory is gone with the server; name a file, sqlite:////PATH/mlflow.db")
        if uri.startswith(SQLITE) and (problem := problem_of(uri)):
            raise ValueError(problem)
        try:
            make_url(uri)
        except (ValueError, ArgumentError):
            raise ValueError("no address of a database; write postgresql://USER@HOST:PORT/NAME") from None
        return uri.replace("postgresql://", "postgresql+psycopg://", 1)

    @field_validator("artifacts")
    @classmethod
    def _without_keys(cls, place: str | None) -> str | None:
        if place is None:
            return None
        if ":/" in place:
            parts = urlsplit(place)
            if parts.scheme not in {"s3", "file"} or (parts.scheme == "s3") != bool(parts.netloc):
                raise ValueError(f"{parts.scheme}: must be a folder, file:///PATH or s3://BUCKET/PREFIX")
            if parts.scheme == "file" and not place.startswith("file:///"):
                raise ValueError(f"{place}: write {parts.path} or file://{parts.path}")
            if parts.query or "@" in parts.netloc:
                raise ValueError("keys do not belong in this file; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        if not place.strip():
            raise ValueError("name a folder or s3://BUCKET/PREFIX, or leave it out")
        return str(Path(place).expanduser()) if place.startswith("~") else place

    @field_validator("allowed_hosts")
    @classmethod
    def _no_wildcard(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if wild := [host for host in hosts if "*" in host]:
            raise ValueError(f"{', '.join(wild)}: name the hosts; a wildcard lets any web page in (DNS rebinding)")
        if odd := [host for host in hosts if not HOST.fullmatch(host)]:
            raise ValueError(f"{', '.join(map(repr, odd))}: a host is NAME or NAME:PORT, as in the Host header")
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

    @model_validator(mode="after")
    def _nothing_of_its_own_among_the_artifacts(self) -> "ServerConfig":
        """Every user may read every artifact."""
        place = self.artifact_folder
        if place is None:
            return self
        own = [self.credentials, *filter(None, [self.sqlite])]
        if place.is_relative_to(self.credentials) or any(path.resolve().is_relative_to(place) for path in own):
            raise ValueError(
                f"artifacts: {place} holds the server's own database or credentials, which every user could download; "
                "give artifacts a folder of their own"
            )
        return self

    @property
    def credentials(self) -> Path:
        """The folder of the users and of the server's secrets."""
        return self.folder.resolve() / "credentials"

    @property
    def uri(self) -> str:
        """Where a client on this machine reaches it."""
        return f"http://{'127.0.0.1' if self.host == EVERYWHERE else self.host}:{self.port}"

    @property
    def backend(self) -> str:
        """The tracking database."""
        return self.database or embedded(self.folder)

    @property
    def destination(self) -> str:
        """Where artifacts go."""
        place = self.artifacts or str(self.folder / "mlartifacts")
        return place if "://" in place else Path(place).resolve().as_uri()

    @property
    def artifact_folder(self) -> Path | None:
        """The folder where artifacts lie; None: in a bucket."""
        parts = urlsplit(self.destination)
        return Path(unquote(parts.path)).resolve() if parts.scheme == "file" else None

    @property
    def sqlite(self) -> Path | None:
        """The database's file; None: it has none."""
        return Path(self.backend.removeprefix(SQLITE)) if self.backend.startswith(SQLITE) else None

    @property
    def origins(self) -> str:
        """The origins of the pages that may change something: the UI as it is seen at `allowed_hosts`."""
        return ",".join(f"{scheme}://{host}" for host in self.allowed_hosts for scheme in ("https", "http"))

    @property
    def hosts(self) -> str:
        """The values of the Host header that are answered."""
        own = ["127.0.0.1", "localhost", *({self.host} - LOOPBACK - {EVERYWHERE})]
        return ",".join([f"{name}:{self.port}" for name in own] + list(self.allowed_hosts))


UNKNOWN = f"unknown key; keys: {', '.join(ServerConfig.model_fields)}"


def load(path: Path) -> ServerConfig:
    """Read a server's file.

    Raises:
        TrackingError: it cannot be read or says what cannot be; names every key.
    """
    try:
        text = path.read_text()
        content: Any = yaml.safe_load(text)
        _refuse_doubles(yaml.compose(text, Loader=yaml.SafeLoader), path)
        return ServerConfig.model_validate(_beside(path, content) if isinstance(content, dict) else content or {})
    except ValidationError as found:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: "
            + (UNKNOWN if e["type"] == "extra_forbidden" else e["msg"].removeprefix("Value error, "))
            for e in found.errors(include_input=False)
        ]
        raise TrackingError(f"{path}: " + "; ".join(problems)) from None
    except OSError as problem:
        raise TrackingError(f"{path}: {problem.strerror}") from problem
    except yaml.MarkedYAMLError as problem:
        line = f"line {problem.problem_mark.line + 1}: " if problem.problem_mark else ""
        raise TrackingError(f"{path}: {line}{problem.problem}") from problem
    except (ValueError, RuntimeError, yaml.YAMLError) as problem:  # a date that is none, a home of nobody
        raise TrackingError(f"{path}: {str(problem).splitlines()[0]}") from problem


def _beside(path: Path, content: dict[Any, Any]) -> dict[Any, Any]:
    """Read folders and an SQLite file that are not absolute as lying beside the file, wherever a command is run."""
    beside = path.resolve().parent
    places = {
        key: str(beside / Path(place).expanduser())
        for key in ("folder", "artifacts")
        if isinstance(place := content.get(key), str) and place.strip() and ":/" not in place
    }
    database = content.get("database")
    if isinstance(database, str) and database.startswith(SQLITE) and database not in IN_MEMORY:
        places["database"] = f"{SQLITE}{beside / Path(database.removeprefix(SQLITE)).expanduser()}"
    return content | places


def _refuse_doubles(root: yaml.Node | None, path: Path) -> None:
    """YAML itself would take the last of two equal keys."""
    keys = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
    if doubles := sorted({str(key) for key in keys if keys.count(key) > 1}):
        raise TrackingError(f"{path}: {', '.join(doubles)}: given twice, keep one")

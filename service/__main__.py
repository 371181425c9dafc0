"""`python -m service`: serves; with a command, publishes models and says which one serves."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from models.artifact import Artifact
from models.errors import ModelError

from .errors import ServiceError
from .settings import Settings, unknown_variables
from .store import ANY, Deployment, VersionInfo, open_store

NOTHING: Final = "none"
_VARIABLES = """

Settings are environment variables. PROREC_REDIS_URL names the Redis that holds the models; without it a server of its
own runs on PROREC_DATA_DIR (var). PROREC_HOST, PROREC_PORT and PROREC_WORKERS say where and how HTTP is served.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
Version = Annotated[str, typer.Argument(help="Name of a published model version.")]
IfActive = Annotated[
    str | None, typer.Option(help=f"Change nothing unless this version is active; '{NOTHING}': unless no version is.")
]


@app.callback(invoke_without_command=True, help=f"Serve recommendations. {_VARIABLES}")
def main(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        serve()


@app.command()
def serve() -> None:
    """Serve recommendations over HTTP; the same as no command at all."""
    with _one_sentence():
        settings = _settings()
        if settings.redis_url is not None:
            with open_store(settings):  # a wrong URL is told before anything is started
                pass
        from .supervisor import serve as run  # the other commands need none of what it imports

        raise typer.Exit(run(settings))


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an artifact, as training wrote it.")],
    activate: Annotated[bool, typer.Option("--activate", help="Make it the active version at once.")] = False,
) -> None:
    """Write a model to Redis under its version; it serves once it is activated."""
    with _one_sentence(), open_store(_settings()) as store:
        artifact = Artifact.open(folder)
        sent = store.publish(artifact, _progress())
        version = artifact.manifest.model_version
        typer.echo(f"published {version}: {_size(sent)} in Redis at {store.redis}")
        if activate:
            _tell(store.activate(version))


@app.command()
def activate(version: Version, if_active: IfActive = None) -> None:
    """Make a published version the one that serves, on every replica."""
    with _one_sentence(), open_store(_settings()) as store:
        _tell(store.activate(version, **_condition(if_active)))


@app.command()
def rollback(if_active: IfActive = None) -> None:
    """Go back to the version that served before this one."""
    with _one_sentence(), open_store(_settings()) as store:
        _tell(store.rollback(**_condition(if_active)))


@app.command()
def delete(version: Version) -> None:
    """Remove a published version from Redis; not the active one."""
    with _one_sentence(), open_store(_settings()) as store:
        store.delete(version)
        typer.echo(f"deleted {version}")


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """List the published versions, last published first; '*' marks the active one."""
    with _one_sentence(), open_store(_settings()) as store:
        versions, active = store.versions(), store.deployment()
        typer.echo(_as_json(versions, active) if as_json else _table(versions, active))


@app.command()
def openapi(
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there instead of to standard output.")
    ] = None,
) -> None:
    """Write the OpenAPI document of the HTTP interface, as JSON."""
    from .api.openapi import export  # the other commands need none of what it imports

    if output is None:
        typer.echo(export(), nl=False)
    else:
        output.write_text(export())


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Whatever is wrong with what the user gave or has: one sentence and exit status 1."""
    try:
        yield
    except (ServiceError, ModelError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _settings() -> Settings:
    for sentence in unknown_variables():
        typer.echo(f"warning: {sentence}", err=True)
    return Settings()


def _condition(if_active: str | None) -> dict[str, Any]:
    return {"if_active": ANY if if_active is None else None if if_active == NOTHING else if_active}


def _tell(active: Deployment) -> None:
    before = f", before it {active.previous[0]}" if active.previous else ""
    typer.echo(f"active: {active.version} (change {active.epoch}{before})")


def _progress() -> Callable[[int, int], None] | None:
    """Draws one line that follows the upload, where a person watches."""
    if not sys.stderr.isatty():
        return None

    def draw(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{_size(done)} of {_size(total)}", end=end, file=sys.stderr, flush=True)

    return draw


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


def _as_json(versions: list[VersionInfo], active: Deployment | None) -> str:
    listed = {"active": active and asdict(active), "versions": [asdict(version) for version in versions]}
    return json.dumps(listed, default=str, indent=2)


def _table(versions: list[VersionInfo], active: Deployment | None) -> str:
    if not versions:
        return "no models are published"
    rows = [("", "VERSION", "ITEMS", "SIZE", "PUBLISHED")]
    rows += [_row(version, active) for version in versions]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _row(info: VersionInfo, active: Deployment | None) -> tuple[str, str, str, str, str]:
    mark = "*" if active is not None and active.version == info.version else ""
    return mark, info.version, f"{info.item_count:,}", _size(info.bytes), f"{info.published_at:%Y-%m-%d %H:%M} UTC"


if __name__ == "__main__":
    app(prog_name="python -m service")

"""`python -m service`: serves; with a command, publishes models and says which one serves."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from models.artifact import Artifact
from models.errors import ModelError

from . import listing
from .errors import ServiceError, SettingsError, StoreUnavailable
from .lifetime import REFUSED
from .settings import Settings, unknown_variables
from .store import ANY, KEEP, Canary, Deployment, Store, open_store
from .store.records import megabytes

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
Wait = Annotated[
    bool,
    typer.Option("--wait", help="Return when every running replica answers with it; exit status 1 where none runs."),
]
TimeoutS = Annotated[float, typer.Option(min=0, help="How long --wait waits, in seconds.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("prorec-serve"))
        raise typer.Exit


ShowVersion = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@app.callback(invoke_without_command=True, help=f"Serve recommendations. {_VARIABLES}")
def main(context: typer.Context, _version: ShowVersion = False) -> None:
    if context.invoked_subcommand is None:
        serve()


@app.command()
def serve() -> None:
    """Serve recommendations over HTTP; the same as no command at all."""
    with _one_sentence():
        settings = _settings()
        from .supervisor import serve as run  # the other commands need none of what it imports
        from .supervisor.last import last_folder, remembered

        if settings.redis_url is not None:
            redis = Store.connect(settings.redis_url, settings.namespace).redis
            last = remembered(last_folder(settings.data_dir, redis, settings.namespace))
            _check_redis(settings, may_be_away=last is not None)
        raise typer.Exit(run(settings))


def _check_redis(settings: Settings, *, may_be_away: bool) -> None:
    """A wrong URL is told before anything is started. Where something is cached Redis may be away."""
    try:
        with open_store(settings):
            pass
    except StoreUnavailable as error:
        if not may_be_away:
            raise
        typer.echo(f"warning: {error}; what was served last is served from the cache", err=True)


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of an artifact, as training wrote it.")],
    activate: Annotated[bool, typer.Option("--activate", help="Make it the active version at once.")] = False,
    wait: Wait = False,
    timeout_s: TimeoutS = 60.0,
) -> None:
    """Write a model to Redis under its version; it serves once it is activated."""
    if wait and not activate:
        raise typer.BadParameter("--wait needs --activate")
    with _one_sentence():
        artifact = Artifact.open(folder)
    with _store(begins=True) as store:
        upload = _Upload()
        size = megabytes(store.publish(artifact, upload))
        version = artifact.manifest.model_version
        if upload.began:
            typer.echo(f"published {version}: {size} in Redis at {store.redis}")
        else:
            typer.echo(f"{version} is published already: all of its {size} are in Redis at {store.redis}")
        if activate:
            _tell(store, store.activate(version), wait, timeout_s)


@app.command()
def activate(version: Version, if_active: IfActive = None, wait: Wait = False, timeout_s: TimeoutS = 60.0) -> None:
    """Make a published version the one that serves, on every replica."""
    with _store() as store:
        _tell(store, store.activate(version, **_condition(if_active)), wait, timeout_s)


@app.command()
def rollback(
    steps: Annotated[int | None, typer.Option(min=1, help="How many versions to go back; one if not given.")] = None,
    to: Annotated[str | None, typer.Option(help="Go back to this earlier version.")] = None,
    if_active: IfActive = None,
    wait: Wait = False,
    timeout_s: TimeoutS = 60.0,
) -> None:
    """Go back to a version that served before this one."""
    if steps is not None and to is not None:
        raise typer.BadParameter("--steps and --to exclude each other")
    with _store() as store:
        _tell(store, store.rollback(steps or 1, to, **_condition(if_active)), wait, timeout_s)


@app.command()
def load(version: Version) -> None:
    """Have every replica load a version and keep it loaded, beside the one that serves."""
    with _store() as store:
        typer.echo(f"kept loaded: {', '.join(store.pin(version).pinned)}")


@app.command()
def unload(version: Version) -> None:
    """End what `load` began."""
    with _store() as store:
        typer.echo(f"kept loaded: {', '.join(store.unpin(version).pinned) or 'nothing'}")


@app.command()
def traffic(
    canary: Annotated[str | None, typer.Option(help="Version that answers a share of the users.")] = None,
    percent: Annotated[float | None, typer.Option(help="That share: above 0, at most 100.")] = None,
    shadow: Annotated[str | None, typer.Option(help="Version that gets a copy of the queries.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="End the roles that are not named.")] = False,
) -> None:
    """Show who answers whom, or give versions a share of the traffic; a role that is not named stays as it is."""
    if (canary is None) != (percent is None):
        raise typer.BadParameter("--canary and --percent need each other")
    rest = None if clear else KEEP
    wanted = Canary(canary, percent) if canary is not None and percent is not None else rest
    with _store() as store:
        shows = (canary, shadow, clear) == (None, None, False)
        typer.echo(listing.traffic(store.deployment() if shows else store.set_traffic(wanted, shadow or rest)))


@app.command()
def delete(version: Version) -> None:
    """Remove a published version from Redis; not one that serves in any role."""
    with _store() as store:
        store.delete(version)
        typer.echo(f"deleted {version}")


@app.command()
def restore(
    forget_changes: Annotated[
        bool, typer.Option("--forget-changes", help="Begin the changed catalog anew instead of putting it back.")
    ] = False,
) -> None:
    """Put back what Redis has lost from what a replica served last here; what Redis has stays."""
    from .restore import restore as put_back  # the other commands need none of what it imports

    with _one_sentence():
        settings = _settings()
        with open_store(settings) as store:
            for sentence in put_back(store, settings, forget_changes=forget_changes):
                typer.echo(sentence)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the published versions, last published first; '*' marks the active one."""
    with _store() as store:
        infos = store.versions()
        if not infos and not as_json:
            typer.echo(f"no models are published in Redis at {store.redis}")
            return
        typer.echo((listing.versions_json if as_json else listing.versions)(infos, store.deployment()))


@app.command()
def replicas(as_json: AsJson = False) -> None:
    """List the replicas that run, what each of them answers with now, and how far it is with the active version."""
    with _store() as store:
        typer.echo((listing.replicas_json if as_json else listing.replicas)(store.replicas(), store.deployment()))


@app.command()
def events(
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List what was activated, rolled back and shared, newest first, and why."""
    with _store() as store:
        typer.echo((listing.events_json if as_json else listing.events)(store.events(limit)))


@contextmanager
def _store(*, begins: bool = False) -> Iterator[Store]:
    """`begins` is for the command that may be the first ever; others would look into a Redis that they have made."""
    with _one_sentence():
        settings = _settings()
        if settings.redis_url is None and not (begins or (settings.data_dir / "redis").exists()):
            raise SettingsError(
                f"{settings.data_dir.absolute()} holds no Redis data: give PROREC_REDIS_URL, or the PROREC_DATA_DIR"
                " that a replica has or `publish` had"
            )
        with open_store(settings) as store:
            yield store


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
        with _one_sentence():
            output.write_text(export())


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Whatever is wrong with what the user gave or has: one sentence and exit status 1, for a setting 2."""
    try:
        yield
    except (ServiceError, ModelError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(REFUSED if isinstance(error, SettingsError) else 1) from None


def _settings() -> Settings:
    for sentence in unknown_variables():
        typer.echo(f"warning: {sentence}", err=True)
    return Settings()


def _condition(if_active: str | None) -> dict[str, Any]:
    return {"if_active": ANY if if_active is None else None if if_active == NOTHING else if_active}


def _tell(store: Store, deployment: Deployment, wait: bool, timeout_s: float) -> None:
    typer.echo(listing.changed(deployment))
    if wait and deployment.version is not None:
        typer.echo(listing.followed(deployment.version, store.wait_until_active(deployment.version, timeout_s)))


class _Upload:
    """Hears how far an upload is, and draws one line that follows it, where a person watches."""

    def __init__(self) -> None:
        self.began = False  # nothing is sent where the same bytes are there already
        self._watched = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        self.began = True
        if self._watched:
            end = "\n" if done == total else ""
            print(f"\r{megabytes(done)} of {megabytes(total)}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app(prog_name="python -m service")

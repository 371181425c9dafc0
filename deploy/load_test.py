"""Load tests of a running service: open loop, from several client processes, with a verdict.

    python -m deploy.load_test steady --data data/movielens-100k --rate 50 --seconds 30
    python -m deploy.load_test ramp --synthetic --slo-ms 50 --echo --plot ramp.png
    python -m deploy.load_test swap --data data/movielens-100k --versions shop-1,shop-2 --json report.json

Requests start at Poisson times whatever the answers do, and latency counts from the intended start, so a stalled
service cannot hide. Exit code 0: the SLO held (p99, failures, nothing inconsistent); 1: it did not, or the test could
not go on; 2: wrong use, and nothing was measured; 130 or 143: Ctrl-C or SIGTERM ended the test early, and the report
holds what there is. swap, canary and churn need PROREC_ADMIN_TOKEN, and put back what was there, but for what a service
never forgets: which versions were active before, and which items have ever changed.
"""

import asyncio
import dataclasses
import inspect
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import typer
from rich.console import Console

from .errors import BenchError, MisuseError
from .load.changes import Canary, Swap
from .load.churn import Churn
from .load.circumstances import service
from .load.histories import bodies
from .load.options import TOKEN_VARIABLE, Options, admin_token
from .load.plot import plot
from .load.ramp import Clients, Ramp
from .load.report import lines, report
from .load.scenarios import Soak, Spike, Steady
from .load.session import Scenario, Session

SCENARIOS: Final[tuple[type[Scenario], ...]] = (Steady, Ramp, Spike, Soak, Swap, Canary, Churn, Clients)
_PATIENCE_S: Final = 30.0
_LOOK_S: Final = 0.5
_ECHO_BODY: Final = {"history": [f"item-{number:05}" for number in range(20)], "k": 10}

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def perform(scenario: Scenario, options: Options) -> int:
    """Runs it, prints and writes the report; the exit code."""
    name = type(scenario).__name__.lower()
    given = {field.name: getattr(scenario, field.name) for field in _options(type(scenario))}
    try:
        session = asyncio.run(_session(scenario, options))
    except MisuseError as error:
        print(f"load test: {error}", file=sys.stderr)
        return 2
    breaches = scenario.judge(session) + session.trouble
    found = report(name, given, session, breaches)
    if options.json:  # first, because whoever reads the lines may have gone
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(lines(found)))
    if options.plot:
        plot(found, options.plot)
    return 128 + session.interrupted if session.interrupted else int(bool(breaches))


async def _session(scenario: Scenario, options: Options) -> Session:
    """The session after the scenario, or what there is of it after a signal."""
    options.check()
    token = admin_token() if scenario.changes_service else os.environ.get(TOKEN_VARIABLE)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(base_url=options.address, timeout=_PATIENCE_S, headers=headers) as client:
        session = Session(options, client, await _bodies(scenario, options, client))
        session.service = await service(client) if scenario.needs_service else None
        running = asyncio.ensure_future(scenario.run(session))
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job begins with the first one ignored
            asyncio.get_running_loop().add_signal_handler(number, _interrupt, session, number, running)
        async with _progress(session):
            try:
                await running
            except asyncio.CancelledError:
                pass  # by a signal, which the session knows
            except (MisuseError, BenchError, httpx.HTTPError, RuntimeError, TimeoutError, ValueError) as error:
                if isinstance(error, MisuseError) and not session.record.counted:
                    raise
                session.trouble.append(f"the test could not go on: {str(error) or type(error).__name__}")
    return session


async def _bodies(scenario: Scenario, options: Options, client: httpx.AsyncClient) -> list[dict[str, Any]]:
    if not scenario.needs_service:
        return [_ECHO_BODY | {"k": options.k}]
    try:
        (await client.get("/health/live")).raise_for_status()
    except httpx.HTTPError as error:
        raise MisuseError(f"no service answers at {options.address}: {error}") from error
    return await bodies(options, client)


def _interrupt(session: Session, number: signal.Signals, running: "asyncio.Future[None]") -> None:
    """What has ended already stays as it is. Only the first signal counts: what it ended puts back what it changed."""
    if session.interrupted is None and running.cancel():
        session.interrupted = number


@asynccontextmanager
async def _progress(session: Session) -> AsyncIterator[None]:
    """How it stands while the block lasts: on a terminal one line that is renewed, elsewhere a line now and then."""
    console = Console(stderr=True)
    with console.status("starting the clients") as status:
        show, every_s = (status.update, _LOOK_S) if console.is_terminal else (_say, session.options.progress_s)

        async def renew() -> None:
            while True:
                await asyncio.sleep(every_s)
                show(session.record.line())

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options(kind: type[Any]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if field.init]


def _command(kind: type[Scenario]) -> Callable[..., None]:
    """A function with the scenario's options and the shared ones as its parameters, which is what typer reads."""
    own, common = _options(kind), _options(Options)

    def command(**given: Any) -> None:
        scenario = kind(**{field.name: given[field.name] for field in own})
        sys.exit(perform(scenario, Options(**{field.name: given[field.name] for field in common})))

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=field.type,
        )
        for field in (*own, *common)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {field.name: field.type for field in (*own, *common)}
    command.__doc__ = kind.__doc__
    return command


for _kind in SCENARIOS:
    app.command(_kind.__name__.lower())(_command(_kind))

if __name__ == "__main__":
    app()

"""What a load test leaves: a report as JSON, and as lines to read."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from . import circumstances
from .phase import PERCENTILES, finite
from .session import Session

_BUSY: Final = 0.8
_LATE_MS: Final = 20.0


def report(scenario: str, given: dict[str, Any], session: Session, breaches: Sequence[str]) -> dict[str, Any]:
    """All of it as JSON; `given` are the scenario's own options."""
    whole, options = session.record.whole(), session.options
    late_ms = (session.decisive or whole).late_ms(99)
    shown = {
        name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(options).items()
    }
    return {
        "scenario": scenario,
        "options": shown | given,
        "begun": session.begun.isoformat(timespec="seconds"),
        "machine": circumstances.machine(),
        "service": session.service,
        "interrupted": session.interrupted is not None,
        "slo": {"held": not breaches, "breaches": list(breaches)},
        "total": whole.summary(),
        "clients": {
            "processes": options.clients,
            "busiest": session.client_busy,
            "sent_late_p99_ms": finite(late_ms),
            "doubts": _doubts(session.client_busy, late_ms),
        },
        "findings": session.findings,
    } | session.record.as_json()


def lines(found: dict[str, Any]) -> list[str]:
    """The report for people."""
    total, clients, machine = found["total"], found["clients"], found["machine"]
    failed = f"{sum(total['failed'].values())} {total['failed'] or ''}".rstrip()
    shown = [
        f"{found['scenario']}{', interrupted' if found['interrupted'] else ''}: answered {total['answered']}, "
        f"failed {failed}, inconsistent {total['mixed']}",
        "latency ms: " + ", ".join(f"{name} {total[f'{name}_ms']}" for name in PERCENTILES),
        f"answers by version: {total['by_version']}",
        f"clients: {clients['processes']} processes, busiest {clients['busiest']:.0%} of a core, "
        f"p99 of sending late {clients['sent_late_p99_ms']} ms",
        *clients["doubts"],
        f"on {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}",
        *([_service(found["service"])] if found["service"] else []),
        *(_finding(name, value) for name, value in found["findings"].items()),
    ]
    until = ", until the test was interrupted" if found["interrupted"] else ""
    breaches = "; ".join(found["slo"]["breaches"])
    return [*shown, f"the SLO did not hold: {breaches}" if breaches else f"the SLO held{until}"]


def _doubts(busy: float, late_ms: float) -> list[str]:
    doubts = [f"a client was busy ({busy:.0%} of a core): use more --clients"] if busy > _BUSY else []
    late = f"the clients sent late (p99 {late_ms} ms), which is part of the latency shown"
    return [*doubts, *([late] if late_ms > _LATE_MS else [])]


def _service(found: dict[str, Any]) -> str:
    canary = f", canary {found['canary_version']}" if found["canary_version"] else ""
    return (
        f"service {found['service']}, {found['provider']} {found['precision']}, model {found['model_version']}{canary}"
    )


def _finding(name: str, value: Any) -> str:
    if isinstance(value, dict) and "highest_per_s" in value:
        at = value["at_highest"] or {}
        busy = f"p99 {at.get('p99_ms')} ms, busiest client {at.get('client_busy')} of a core"
        return f"{name}: highest rate {value['highest_per_s']}/s ({busy}), {len(value['tried'])} rates tried"
    if isinstance(value, dict) and "mb" in value:
        ends = [row[1] for row in value["mb"][:1] + value["mb"][-1:]]
        each = "; ".join(f"{row['name']} {row['mb']}" for row in value["processes"])
        return f"memory of process {value['process']}: {len(value['mb'])} samples, MB first and last {ends}; {each}"
    return f"{name}: {value}"

"""What a load test leaves: a report as JSON, and as lines to read."""

import dataclasses
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .phase import finite
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
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "interrupted": session.interrupted,
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
    total, clients = found["total"], found["clients"]
    shown = [
        f"{found['scenario']}{', interrupted' if found['interrupted'] else ''}: answered {total['answered']}, "
        f"failed {sum(total['failed'].values())} {total['failed'] or ''}, inconsistent {total['mixed']}",
        f"latency ms: p50 {total['p50_ms']}, p95 {total['p95_ms']}, p99 {total['p99_ms']}, max {total['max_ms']}",
        f"answers by version: {total['by_version']}",
        f"clients: {clients['processes']} processes, busiest {clients['busiest']:.0%} of a core, "
        f"p99 of sending late {clients['sent_late_p99_ms']} ms",
        *clients["doubts"],
        *(_finding(name, value) for name, value in found["findings"].items()),
    ]
    until = ", until the test was interrupted" if found["interrupted"] else ""
    breaches = "; ".join(found["slo"]["breaches"])
    return [*shown, f"the SLO did not hold: {breaches}" if breaches else f"the SLO held{until}"]


def _doubts(busy: float, late_ms: float) -> list[str]:
    doubts = [f"the clients were busy ({busy:.0%} of a core each): use more --clients"] if busy > _BUSY else []
    late = f"the clients sent late (p99 {late_ms} ms), which is part of the latency shown"
    return [*doubts, *([late] if late_ms > _LATE_MS else [])]


def _finding(name: str, value: Any) -> str:
    if isinstance(value, dict) and "highest_per_s" in value:
        at = value["at_highest"] or {}
        busy = f"p99 {at.get('p99_ms')} ms, a client {at.get('client_busy')} of a core"
        return f"{name}: highest rate {value['highest_per_s']}/s ({busy}), {len(value['tried'])} rates tried"
    if isinstance(value, dict) and "mb" in value:
        ends = [row[1] for row in value["mb"][:1] + value["mb"][-1:]]
        each = "; ".join(f"{row['name']} {row['mb']}" for row in value["processes"])
        return f"memory of process {value['process']}: {len(value['mb'])} samples, MB first and last {ends}; {each}"
    return f"{name}: {value}"

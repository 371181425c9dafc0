"""What the command line prints about versions, traffic, replicas and events."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import msgspec

from .store import Deployment, Event, ReplicaReport, VersionInfo
from .store.records import megabytes

Row = tuple[str, ...]


def changed(deployment: Deployment) -> str:
    before = f", before it {deployment.previous[0]}" if deployment.previous else ""
    return f"active: {deployment.version} (change {deployment.epoch}{before})"


def followed(version: str, replicas: Sequence[ReplicaReport]) -> str:
    return f"{len(replicas)} {'replicas serve' if len(replicas) > 1 else 'replica serves'} {version}"


def traffic(deployment: Deployment | None) -> str:
    """One line a role."""
    if deployment is None or deployment.version is None:
        return "no version is active"
    lines = [f"active: {deployment.version}"]
    if deployment.canary:
        lines.append(f"canary: {deployment.canary.version}, for {deployment.canary.percent:g} % of the users")
    if deployment.shadow:
        lines.append(f"shadow: {deployment.shadow}")
    return "\n".join(lines)


def versions(infos: list[VersionInfo], deployment: Deployment | None) -> str:
    return _table(("", "VERSION", "ITEMS", "SIZE", "PUBLISHED", "ROLE"), [_version(info, deployment) for info in infos])


def versions_json(infos: list[VersionInfo], deployment: Deployment | None) -> str:
    rows = [info.model_dump(include={*VersionInfo.model_fields}) for info in infos]
    listed = {"active": deployment and asdict(deployment), "versions": rows}
    return json.dumps(listed, default=str, indent=2)


def replicas(reports: list[ReplicaReport], deployment: Deployment | None) -> str:
    if not reports:
        return "no replica is running"
    header = ("REPLICA", "ADDRESS", "SERVES", "ROLE", "READY FOR", "CHANGE", "CATALOG", "STATE")
    return _table(header, [_replica(report, deployment) for report in reports])


def replicas_json(reports: list[ReplicaReport], deployment: Deployment | None) -> str:
    roles = [deployment.roles_of(report.serving) if deployment else [] for report in reports]
    rows = [msgspec.to_builtins(report) | {"roles": has} for report, has in zip(reports, roles, strict=True)]
    return json.dumps(rows, indent=2)


def events(found: list[Event]) -> str:
    if not found:
        return "nothing was ever changed"
    return _table(("WHEN", "CHANGE", "FROM", "TO", "WHY"), [_event(event) for event in found])


def events_json(found: list[Event]) -> str:
    return json.dumps([_event_values(event) for event in found], indent=2)


def _version(info: VersionInfo, deployment: Deployment | None) -> Row:
    roles = ", ".join(_roles(info.version, deployment)) if deployment else ""
    published = f"{info.published_at:%Y-%m-%d %H:%M} UTC"
    mark = "*" if deployment is not None and deployment.version == info.version else ""
    return mark, info.version, f"{info.item_count:,}", megabytes(info.bytes), published, roles


def _roles(version: str, deployment: Deployment) -> list[str]:
    canary = deployment.canary
    roles = {
        "active": version == deployment.version,
        f"canary {canary.percent:g} %" if canary else "": canary is not None and version == canary.version,
        "shadow": version == deployment.shadow,
        "loaded": version in deployment.pinned,
        "served before": version in deployment.previous,
    }
    return [role for role, has in roles.items() if has]


def _replica(report: ReplicaReport, deployment: Deployment | None) -> Row:
    serves, ready_for = report.serving or "-", " ".join(report.ready_for) or "-"
    role = ", ".join(_roles(report.serving, deployment) if deployment and report.serving else ()) or "-"
    state = _state(report, deployment.version if deployment else None)
    change, catalog = str(report.epoch), str(report.catalog_revision)
    return report.replica, report.address, serves, role, ready_for, change, catalog, state


def _state(report: ReplicaReport, active: str | None) -> str:
    """Of what it answers with, or of the active version that it does not answer with yet."""
    if report.draining:
        return "draining"
    if active is None or report.serving == active:
        return report.states.get(report.serving or "", "waiting")
    return f"{active}: {report.states.get(active, 'unknown')}"


def _event(event: Event) -> Row:
    now = event.deployment
    at = datetime.fromtimestamp(now.at, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC", str(now.epoch), event.from_version or "-", now.version or "-", _why(event)


def _why(event: Event) -> str:
    """The reason, and what it led to where that is no switch."""
    now = event.deployment
    if now.reason == "traffic":
        shares = traffic(now).splitlines()[1:]
        return f"traffic: {'; '.join(shares) or 'all to the active version'}"
    if now.reason in ("load", "unload"):
        return f"{now.reason}: {', '.join(now.pinned) or 'nothing'} kept loaded"
    return now.reason


def _event_values(event: Event) -> dict[str, object]:
    values = asdict(event.deployment) | {"from": event.from_version, "automatic": event.automatic}
    del values["previous"]  # events do not say it
    return values


def _table(header: Row, rows: list[Row]) -> str:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

"""What Redis has lost, put back from what a replica of this machine has on its disk: `python -m service restore`.

Nothing that Redis has is changed, so the command may be repeated, and run on several machines.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from models.artifact import Artifact
from models.errors import ArtifactError

from .errors import ServiceError, VersionExists
from .settings import Settings
from .store import Deployment, Store
from .supervisor.last import LastCatalog, last_folder, remembered, remembered_catalog


def restore(store: Store, settings: Settings, *, forget_changes: bool = False) -> Iterator[str]:
    """One sentence for each thing that was done or found; `forget_changes` begins the changed catalog anew instead.

    Versions first, then codes and the catalog, and the deployment last: whoever follows finds everything it names.
    Raises ServiceError where nothing was ever served from here, where the changed catalog is damaged, and at the end
    where the active version is missing.
    """
    redis = None if settings.redis_url is None else store.redis
    folder = last_folder(settings.data_dir, redis, settings.namespace)
    deployment = remembered(folder)
    if deployment is None:
        raise ServiceError(f"nothing was served from here: {folder} names no deployment")
    published = {info.version for info in store.versions()}
    for version in _named(deployment):
        if version not in published:
            found, sentence = _publish(store, settings.data_dir / "cache" / folder.name / version)
            published |= {version} if found else set()
            yield sentence
    yield _forget(store) if forget_changes else _restore_catalog(store, _last_catalog(folder), published)
    yield _restore_deployment(store, deployment, published)


def _named(deployment: Deployment) -> list[str]:
    """What serves comes first."""
    names = [deployment.version, *sorted(deployment.roles), *deployment.previous]
    return list(dict.fromkeys(name for name in names if name is not None))


def _publish(store: Store, folder: Path) -> tuple[bool, str]:
    try:
        store.publish(Artifact.open(folder))
    except (OSError, ArtifactError):
        return False, f"{folder.name}: not in the cache here; publish its artifact"
    except VersionExists:
        return False, f"{folder.name}: other bytes than those in the cache here had this name since"
    return True, f"{folder.name}: published from the cache"


def _last_catalog(folder: Path) -> LastCatalog | None:
    try:
        return remembered_catalog(folder)
    except ServiceError as error:
        way_out = "restore on another replica's machine first, or do without (--forget-changes)"
        raise ServiceError(f"{error}; {way_out}") from None


def _restore_catalog(store: Store, last: LastCatalog | None, published: set[str]) -> str:
    now = store.catalog_revision()
    if last is not None:
        _restore_codes(store, last, published, known=now > 0)
    if now:
        return f"catalog: Redis has revision {now}, which stays"
    if last is None or last.revision < 1:
        return "catalog: no change of it is known here"
    if not store.restore_catalog(last.records, last.revision):
        return "catalog: another one came first, which stays"
    return f"catalog: put back as of revision {last.revision}, items changed: {len(last.records)}"


def _restore_codes(store: Store, last: LastCatalog, published: set[str], *, known: bool) -> None:
    """Of items that were added and still are, in the catalog of Redis where it has one; a code once given stays."""
    held = store.catalog_records({one.item_id for one in last.records}).values() if known else last.records
    added = {one.item_id for one in held if one.item is not None and not one.removed}
    for version, codes in last.codes.items():
        if version in published:
            store.place(version, {item_id: code for item_id, code in codes.items() if item_id in added})


def _forget(store: Store) -> str:
    if not store.restore_catalog([], 1):
        return f"catalog: Redis has revision {store.catalog_revision()}, which stays"
    return "catalog: begun anew; nothing is hidden, set or added any more"


def _restore_deployment(store: Store, last: Deployment, published: set[str]) -> str:
    if now := store.deployment():
        return f"deployment: Redis has one, which stays; {now.version or 'nothing'} is active"
    if last.version is not None and last.version not in published:
        raise ServiceError(f"{last.version} was active and is missing: publish its artifact, and restore again")

    def kept(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name in published)

    wanted = replace(
        last,
        epoch=last.epoch + 1,  # a change, for whoever follows
        previous=kept(last.previous),
        pinned=kept(last.pinned),
        canary=last.canary if last.canary and last.canary.version in published else None,
        shadow=last.shadow if last.shadow in published else None,
        reason="restore",
    )
    if not store.restore_deployment(wanted):
        return "deployment: another one came first, which stays"
    return f"deployment: {wanted.version or 'nothing'} is active (change {wanted.epoch})"

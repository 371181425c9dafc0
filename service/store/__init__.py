"""What Redis holds: published versions, the deployment, the live catalog, and which replicas follow.

A version is published as checksummed chunks under keys of its own upload, and then, in one step, its record; so what
has no record does not exist, and publishers never write over each other. Deployment and catalog change by
compare-and-set.
"""

from .catalog import CatalogChanged, CatalogPage, CatalogSighting
from .connection import Connection
from .deployment import ANY, KEEP, Canary, Deployment, Event
from .records import VersionInfo
from .replicas import ReplicaReport
from .store import Store, open_store
from .watch import Lost, Sighting, StoreDown

__all__ = [
    "ANY",
    "KEEP",
    "Canary",
    "CatalogChanged",
    "CatalogPage",
    "CatalogSighting",
    "Connection",
    "Deployment",
    "Event",
    "Lost",
    "ReplicaReport",
    "Sighting",
    "Store",
    "StoreDown",
    "VersionInfo",
    "open_store",
]

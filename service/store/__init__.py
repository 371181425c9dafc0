"""The store of models: published versions and which one is active, in Redis.

A version is published as checksummed chunks under keys of its own upload, and then, in one step, its record; so what
has no record does not exist, and publishers never write over each other. `active` changes by compare-and-set.
"""

from .connection import Connection
from .records import Active, VersionInfo
from .store import ANY, Store, open_store
from .watch import Lost, Sighting, StoreDown

__all__ = ["ANY", "Active", "Connection", "Lost", "Sighting", "Store", "StoreDown", "VersionInfo", "open_store"]

"""Which events of a source are worth keeping: one per user and item, and only the k-core."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..interactions import EventLog


@dataclass(frozen=True)
class CoreEvents:
    """What is left of a source, user by user and oldest first.

    user_ids, item_ids  ids of the whole source, in order of first appearance
    user, item          int32 [E] places in them
    time_us             int64 [E] microseconds
    repeats             events dropped because the user had that item before
    dropped             events dropped in all
    """

    user_ids: list[str]
    item_ids: list[str]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time_us: NDArray[np.int64]
    repeats: int
    dropped: int

    def kept_item_ids(self) -> list[str]:
        return [self.item_ids[i] for i in np.unique(self.item)]


def select_core(log: EventLog, min_core: int, *, drop_repeats: bool = False) -> CoreEvents:
    """Drops a user's repeated items if asked, then filters to the `min_core`-core."""
    user, item, time_us = log.user, log.item, log.time_us
    rows = first_of_pairs(user, item, time_us) if drop_repeats else np.arange(len(user))
    repeats = len(user) - len(rows)
    rows = rows[k_core(user[rows], item[rows], min_core)]
    rows = rows[np.lexsort((time_us[rows], user[rows]))]
    return CoreEvents(
        list(log.users), list(log.items), user[rows], item[rows], time_us[rows], repeats, len(user) - len(rows)
    )


def first_of_pairs(user: NDArray[np.int32], item: NDArray[np.int32], time_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows, ascending, of the oldest event of each user with each item; the file's order breaks ties."""
    order = np.lexsort((time_us, item, user))
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = (np.diff(user[order]) != 0) | (np.diff(item[order]) != 0)
    return np.sort(order[is_first])


def k_core(user: NDArray[np.int32], item: NDArray[np.int32], minimum: int) -> NDArray[np.int64]:
    """Rows, ascending, of the largest subset in which every user and every item has `minimum` events.

    One pass is not enough: a dropped item may take a user below the minimum, and so on.
    """
    rows = np.arange(len(user))
    while True:
        users, items = user[rows], item[rows]
        stays = (np.bincount(users)[users] >= minimum) & (np.bincount(items)[items] >= minimum)
        if stays.all():
            return rows
        rows = rows[stays]

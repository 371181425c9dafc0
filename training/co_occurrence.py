"""Item vectors from who took what with what, and nothing else: collaboration as every model can be held against it."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds

from .interactions import Sequences

WIDTH: Final = 128


def co_occurrence_vectors(train: Sequences, item_count: int, width: int = WIDTH) -> NDArray[np.float32]:
    """Item factors float32 [N, D] of a truncated singular value decomposition (PureSVD, Cremonesi et al., RecSys 2010).

    Decomposed is users by items, each event over the square root of what its user and its item have of them, so that
    neither busy users nor popular items decide alone. D is `width`, or what smaller data allow. An item without a
    training event is 0.
    """
    user_count = len(train.offsets) - 1
    users = np.repeat(np.arange(user_count), np.diff(train.offsets))
    taken = csr_array((np.ones(len(users)), (users, train.items)), shape=(user_count, item_count))
    taken.data[:] = 1.0  # whoever takes an item twice is one who takes it
    by_user, by_item = (diags_array(1 / np.sqrt(np.maximum(taken.sum(axis=axis), 1))) for axis in (1, 0))
    normalised = by_user @ taken @ by_item
    _, strength, directions = svds(normalised, min(width, min(normalised.shape) - 1), random_state=0)
    vectors: NDArray[np.float32] = (directions * strength[:, None]).T.astype(np.float32)
    return vectors

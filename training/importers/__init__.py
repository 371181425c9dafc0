"""Public datasets → the project's dataset folder, which is all that the rest of `training` reads."""

from .amazon import find_amazon_files, import_amazon
from .dataset_folder import ImportCounts
from .fetch import fetch_movielens
from .movielens import import_movielens
from .recbole import import_recbole

__all__ = [
    "ImportCounts",
    "fetch_movielens",
    "find_amazon_files",
    "import_amazon",
    "import_movielens",
    "import_recbole",
]

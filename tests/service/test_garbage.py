import subprocess
import sys

PROGRAM = """
import gc
from service.garbage import spare_the_old

old = [[number] for number in range(100_000)]
before = len(gc.get_objects())
spare_the_old()
print(before, len(gc.get_objects()), gc.get_freeze_count())
"""


def test_what_is_there_is_not_looked_at_again() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, watched, frozen = map(int, ran.stdout.split())
    assert frozen > 100_000
    assert watched < before - 100_000

"""What a process has made before it serves stays; the garbage collector need not look at it again and again."""

import gc


def spare_the_old() -> None:
    """From now on collections look only at what is made after this call.

    A full one would otherwise stop every request for as long as it takes to walk through all imported modules: 20 ms in
    an engine, 60 ms in a worker, and under load it comes often.
    """
    gc.collect()
    gc.freeze()

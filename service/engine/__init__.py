"""One process that holds one model version, follows the catalog, and answers queries over a Unix socket.

The life of a query with a filter, and who may touch what on the way:

1 server    event loop: reads the frame; refuses at once what comes too late, or finds the batcher's queue full
2 slots     event loop, whose alone they are: pins the slot that holds the filter, and goes on at 4; where none does,
            one that nobody has pinned is vacated for it, and its compilation pins that
3 changes   catalog thread, one thing after the other, changes of the catalog before filters: live compiles the filter
            into its slot of the index, in place and without a lock, as nobody reads that slot before it is done
4 catalog   event loop, under the index's lock: ids → the row that is searched for, as of one state of the catalog; a
            query whose history holds no known item is answered here
5 batcher   event loop, under the batcher's own lock: queues the row; only the event loop settles its future
6 batcher   search thread, between two batches: shows what the catalog thread has worked out aside and waits for, under
            the index's lock; nowhere else does one state give way to another. Then takes rows of one shape, and has
            catalog prepare anew those that are of an earlier state
7 search    search thread, and those that get parts of the batch: the graph reads the state without a lock, as nobody
            writes meanwhile to a slot that a search uses or to a row of an item that is shown
8 catalog   event loop: unpins the slot; checks what was found, and the server sends the first k as the answer

Items (LiveItems) are the catalog thread's to change, anybody's to read. Nothing listens before startup has proved all.
"""

"""One process that holds one model version, follows the catalog, and answers queries over a Unix socket.

server      frames in, frames out; drains on SIGTERM
catalog     item ids → what the search reads; what the search found → item ids
slots       which filter is in which slot
batcher     queues rows and runs them in batches on one thread, and what must happen between two batches
search      what a search is asked and finds, and the ONNX graphs on the CPU
gpu_search  the ONNX graphs on a GPU, with gpu_residence, gpu_catalog, gpu_shapes and device_memory below it
live        filters compiled, changes applied: all that changes what the search reads
index       what the search reads of the catalog, in one state after the other
newcomers   rows and codes of items that were added after training
startup     load, warm, prove; nothing listens before that
"""

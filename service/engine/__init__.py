"""One process that holds one model version and answers queries over a Unix socket.

server    frames in, frames out; drains on SIGTERM
catalog   item ids → what the search reads; what the search found → item ids
batcher   queues rows and runs them in batches on one thread
search    the ONNX graphs on a device
startup   load, warm, prove; nothing listens before that
"""

"""One process that answers what is asked about items: look-up, text search, trie, checks of new ones.

server        frames in, frames out; what takes long runs on threads
documents     items as JSON
text_search   words → items
prefixes      what may follow a prefix of tokens
newcomers     checks and embeddings of new items, checks of changed attributes
"""

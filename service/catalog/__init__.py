"""The catalog as it is now: the items of a model, and over them what has changed since it was trained.

records   what Redis holds about an item that was changed, added or removed
items     the items of one artifact with those records over them
overlay   attributes of the items that differ
filters   conditions on attributes, over all items or some
"""

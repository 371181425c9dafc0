"""The catalog as it is now: the items of a model, and over them what has changed since it was trained.

records   what Redis holds about an item that was changed, added or removed
"""

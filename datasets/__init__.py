"""Label files, partitions and pixels. Knows nothing of the rooms above it.

Exports nothing: Hugging Face has a package of this name, and an import that
finds the wrong one must fail at once.
"""

"""From raw files to one dataset: sources, cleaning, duplicates, groups, balance, splits, and the card that tells about it.

Notebook 01 calls it, and every room that has to clean a text as the merge does. It knows `study` alone.
"""

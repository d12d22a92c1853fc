"""What a user takes away: exported classifiers, their runtimes, `emosafe classify`, and what they cost on a device.

Notebooks 04 and 06 call it.
"""

"""Light training: the plan of a run, its network, its objective, the Trainer, and the probe that it has to beat.

Notebook 04 calls it, and `emosafe train` for models that need several processes.
"""

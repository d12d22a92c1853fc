"""From prediction files to numbers, tests and verdicts; no text is read here, and no model is run.

Notebook 05 calls it, and whoever scores predictions. It knows `study`, `data` and `models`.
"""

"""What a model knows before it is trained: wordings, exact label probabilities, calibrated answers, attacks.

Notebook 03 calls it.
"""

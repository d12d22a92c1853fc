"""Backbones and what they run on: weights, size, batches, precision, classifiers, checkpoints, and a chat server's answers.

Prompting, fine-tuning and the device room call it. It knows `study` alone.
"""

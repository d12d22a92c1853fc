"""Re-interpretations of training messages: by a chat model or by offline templates, bounded, private, auditable.

Notebook 02 calls it.
"""

"""Unlabelled text for pre-training a language model; these sources have files but no rows, and are never merged."""

from emosafe_lib.data.sources.base import public

SOURCES = [public("gutenberg_novels", role="pretrain"), public("wikitext2", role="pretrain")]

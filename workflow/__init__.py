"""The runner: Snakemake decides what has to run, and a stage counts as done only if it can be checked.

Makefile, Snakefile and `emosafe run` call it; the library never imports it.
"""

import sys

# jsonschema, which nbformat imports, builds a grammar of international addresses from it: a second for every stage, and no
# notebook's schema speaks of one. jsonschema goes on without it.
sys.modules.setdefault("rfc3987_syntax", None)

"""The runner: Snakemake decides what has to run, and a stage counts as done only if it can be checked.

Makefile, Snakefile and `emosafe run` call it; the library never imports it.
"""

"""What all rooms share: vocabulary, typed parameters, rows, paths and files, errors, a stage's begin and finish.

Anyone may call it; it calls nobody.
"""

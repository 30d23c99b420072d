"""graphclone and torch-pruning on the same tiny models, judged by the same words: see `benchmarks/coverage.py`.

`subjects` the models · `roles` what has to be narrowed · `verdict` the words · `ours`, `theirs` the two tools · `reorder` torch-pruning's
groups permuted and zeroed, to see whether they are right.
"""

"""Random programs: a generator that draws them from the whole vocabulary of ops, and the oracles that may not fail on any of them.

    python -m tests.programs --count 20000 --jobs 2

`world` holds what a program has so far, `moves/` what it may do next, `program` is the result, `oracles` judge it, `minimise`
makes a counter-example small.
"""

"""The fixed sample: models chosen for different op patterns."""

SAMPLE: tuple[str, ...] = ()

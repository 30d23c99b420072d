"""Does graphclone keep its promise on everything that exists? `python -m models_zoo.conformance` asks each model of the field."""

"""Does a saved child come back? `python -m models_zoo.roundtrip` writes one of every model, and reads it in a process of its own."""

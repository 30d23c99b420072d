"""The main job on real parents and real data: clone a trained model, check the clone, race it against a random twin."""

"""The field: tiny models of everything that the libraries hold, each module with `names()` and `find(name)`."""

"""How soon a child learns, by how it begins: every rival in the same race."""

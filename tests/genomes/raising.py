"""A module of a package that is broken."""

Toy = 1 / 0

"""Contestants of `make bench`, each a process of its own, and what is made of their results."""

"""Annealed transitions of one chain."""

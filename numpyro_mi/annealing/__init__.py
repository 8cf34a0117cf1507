"""Annealed chains between a base and a target, and how their settings are found."""

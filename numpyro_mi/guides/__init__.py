"""Guides q(z | x): where annealed paths start, and importance samplers draw from."""

"""Schemes of annealed importance sampling: how forward and reverse chains become two bounds."""

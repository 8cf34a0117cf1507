"""Stochastic gradients on joint draws that are never scored."""

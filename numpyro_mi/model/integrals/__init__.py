"""The log-marginals of a model: which there are, how they are summed, their densities."""

"""Two-sided stochastic bounds on one log-marginal; nothing here knows of mutual information."""

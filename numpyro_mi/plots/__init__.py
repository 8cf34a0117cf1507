"""Plots of results, in the conventions of `arviz_plots`; they read a result and nothing else."""

from numpyro_mi.plots.forest import plot_bounds
from numpyro_mi.plots.gain import plot_information_gain
from numpyro_mi.plots.log_weights import plot_log_weights

__all__ = ["plot_bounds", "plot_information_gain", "plot_log_weights"]

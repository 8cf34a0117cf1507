"""The only package that touches a NumPyro model: tracing, checking, staging, densities."""

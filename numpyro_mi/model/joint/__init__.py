"""The joint model: tracing, who depends on whom, and what is refused."""

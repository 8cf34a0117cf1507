"""What else a model is: a likelihood, a source of samples, a function of its design, a guide."""

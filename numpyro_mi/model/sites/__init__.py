"""One site of a model: what it is, its elements, its support and coordinates."""

"""Results, methods, fitted guides and critics as files and back."""

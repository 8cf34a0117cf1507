"""What executes: from a model and a method to the terms of a result."""

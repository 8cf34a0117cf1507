"""The public functions, one file each, named after it."""

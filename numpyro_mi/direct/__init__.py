"""Estimates and bounds of mutual information from joint samples alone; nothing here sees a model."""

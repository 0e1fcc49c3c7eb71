"""Influences from plain arrays: moments, estimators, inference and checks."""

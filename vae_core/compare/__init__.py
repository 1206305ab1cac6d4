"""Comparing pictures: pairs, figures, differences, drift."""

"""Figures, tables and widgets."""

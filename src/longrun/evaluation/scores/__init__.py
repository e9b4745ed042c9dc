"""Scores: grades to tables, k samples and votes."""

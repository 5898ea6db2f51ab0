"""Kills everything that a search rests on, at seeded moments, and looks whether the study notices."""

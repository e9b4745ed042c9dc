"""Packs: which documents share one, and packed data of others."""

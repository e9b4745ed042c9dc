"""Runs a recipe: starts stages by name in processes of their own; never imports one."""

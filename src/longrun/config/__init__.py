"""What a run is: settings, recipes, overrides and their checks; without torch or numpy."""

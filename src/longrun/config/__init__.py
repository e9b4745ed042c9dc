"""What a run is: stage settings, recipes, overrides and their checks; read and validated without torch or numpy."""

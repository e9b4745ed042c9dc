"""Learning-rate schedules, parameter groups and clipping."""

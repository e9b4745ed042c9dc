"""Training: the step owns mathematics, the loop owns time, everything periodic is a named moment."""

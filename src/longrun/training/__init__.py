"""Training: the step owns mathematics, the loop owns time, periodic things are named moments."""

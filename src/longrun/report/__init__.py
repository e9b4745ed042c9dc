"""Tables, plots and the self-contained page."""

"""The verbs of the command line; a stage is imported only when its verb runs."""

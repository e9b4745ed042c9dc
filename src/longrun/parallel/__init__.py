"""One model over many processes: the mesh and every collective of the project."""

"""Import paths of NeMo-Skills' pipelines: in its scripts only the package's name changes."""

from longrun.launch.commands import wrap_arguments

__all__ = ["wrap_arguments"]

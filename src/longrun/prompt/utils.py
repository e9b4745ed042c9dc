"""Prompts under the import path of NeMo-Skills; see ``longrun.data.records.prompt_templates``."""

from longrun.data.records.prompt_templates import get_prompt

__all__ = ["get_prompt"]

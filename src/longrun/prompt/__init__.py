"""The import path of NeMo-Skills' prompts; see ``longrun.data.records.prompt_templates``."""

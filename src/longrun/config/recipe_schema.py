"""The JSON schema of recipes, for editors that complete and check YAML."""

from typing import Any

from longrun.config.cluster import JobSettings
from longrun.config.composition import SCALE_KEYS
from longrun.config.stages import STAGES

_REFERENCE = {"type": "string", "pattern": r"\$\{[^}]+\}"}
"""What may stand for a value of any type."""


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe, as a file: complete, or laid over another by ``extends``.

    Every setting may be a ``${reference}``. Sections of a file that extends another, and of its
    scales, may leave out what is required, or be null.
    """
    definitions: dict[str, Any] = {"job": _section(JobSettings, {})}
    whole, laid_over = {}, {}
    for verb, config in STAGES.items():
        section = _section(config, definitions)
        section["properties"]["verb"] = {"const": verb}
        required = [key for key in section.pop("required", []) if key != "output_dir"]
        definitions[verb] = section
        laid_over[verb] = {"$ref": f"#/$defs/{verb}"}
        whole[verb] = {"allOf": [laid_over[verb], {"required": required}]}
    # A section named after no verb says its verb, unless another file has said it.
    of_any_verb = {"required": ["verb"], "anyOf": list(whole.values())}
    definitions["stages"] = _stages(whole, of_any_verb)
    definitions["laid_over"] = _stages(
        {verb: _or_null(one) for verb, one in laid_over.items()},
        _or_null({"anyOf": list(laid_over.values())}),
    )
    definitions["jobs"] = _mapping_of(_or_null({"$ref": "#/$defs/job"}))
    definitions["scale"] = _object(
        settings={"type": "object"},
        stages={"$ref": "#/$defs/laid_over"},
        jobs={"$ref": "#/$defs/jobs"},
    )
    assert set(definitions["scale"]["properties"]) == set(SCALE_KEYS)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Longrun recipe",
        **_object(
            extends={"type": "string"},
            name={"type": "string"},
            description={"type": "string"},
            output_dir={"type": "string"},
            settings={"type": "object"},
            stages={"type": "object"},
            jobs={"$ref": "#/$defs/jobs"},
            scales=_mapping_of({"$ref": "#/$defs/scale"}),
        ),
        "if": {"required": ["extends"]},
        "then": {"properties": {"stages": {"$ref": "#/$defs/laid_over"}}},
        "else": {
            "required": ["name", "stages"],
            "properties": {"stages": {"$ref": "#/$defs/stages"}},
        },
        "$defs": definitions,
    }


def _stages(of_verb: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    named = {"required": ["verb"], **others}
    sections = {verb: {"anyOf": [one, named]} for verb, one in of_verb.items()}
    return {"type": "object", "properties": sections, "additionalProperties": others}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _mapping_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": schema}


def _section(config: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of ``config`` with references allowed; its parts go to ``definitions``."""
    schema: dict[str, Any] = config.model_json_schema(ref_template="#/$defs/{model}")
    for name, part in schema.pop("$defs", {}).items():
        definitions[name] = _with_references(part)
    return _with_references(schema)


def _with_references(schema: dict[str, Any]) -> dict[str, Any]:
    if "properties" not in schema:
        return schema
    shown = ("title", "description", "default")
    properties = {}
    for name, inside in schema["properties"].items():
        top = {key: inside[key] for key in shown if key in inside}
        rest = {key: value for key, value in inside.items() if key not in shown}
        properties[name] = {**top, "anyOf": [rest, _REFERENCE]}
    return {**schema, "properties": properties}

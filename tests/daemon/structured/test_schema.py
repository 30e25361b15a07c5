"""What may be asked of a schema."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engines.structured.schema import MAX_DEPTH, MAX_NODES, prepare
from fcd.errors import ApiError


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED: list[tuple[Any, str]] = [
    ([], "must be a JSON schema"),
    ("string", "must be a JSON schema"),
    ({"type": "text"}, "'type' must be one of"),
    ({"type": 12}, "'type' must be one of"),
    ({"type": []}, "'type' must be one of"),
    ({"properties": []}, "'properties' must be an object"),
    ({"properties": {"a": 3}}, "#/properties/a"),
    ({"items": "x"}, "#/items"),
    ({"required": "a"}, "'required' must be a list of names"),
    ({"enum": []}, "'enum' must be a list of 1 to 1000 values, not a list of 0"),
    ({"anyOf": []}, "'anyOf' must be"),
    ({"minLength": -1}, "'minLength' must be"),
    ({"minLength": 1.5}, "'minLength' must be"),
    ({"minLength": 3, "maxLength": 2}, "above 'maxLength'"),
    ({"minimum": "1"}, "'minimum' must be a number"),
    ({"pattern": 3}, "'pattern' must be a string"),
    ({"$ref": "#"}, "recursive"),
    ({"type": "object", "properties": {"child": {"$ref": "#"}}}, "recursive"),
    ({"$defs": {"a": {"$ref": "#/$defs/a"}}}, "recursive"),
    ({"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}}, "recursive"),
    ({"$ref": "#/$defs/none"}, "does not exist"),
    ({"$ref": "http://169.254.169.254/latest"}, "same schema"),
    ({"$ref": "file:///etc/passwd"}, "same schema"),
    ({"$ref": "#/required", "required": ["a"]}, "no schema"),
    ({"$dynamicRef": "#a"}, "'$dynamicRef' is not supported"),
    (nested(MAX_DEPTH + 1), "deeper"),
    ({"properties": {str(i): {} for i in range(MAX_NODES + 1)}}, "more than"),
    ({"description": "x" * 300_000}, "bytes"),
]


@pytest.mark.parametrize(("schema", "message"), REFUSED)
def test_what_is_refused_says_where_and_why(schema: Any, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        prepare(schema, "tools[0].function.parameters", strict=False)
    assert (caught.value.status, caught.value.param) == (400, "tools[0].function.parameters")
    assert message in caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"if": {"type": "string"}, "then": {"const": "a"}},
        {"type": "object", "dependentRequired": {"a": ["b"]}},
        {"type": "array", "uniqueItems": True},
        {"type": "array", "contains": {"const": 1}},
        {"allOf": [{"type": "integer"}, {"minimum": 3}]},
        {"$defs": {"a": {"type": "integer"}}, "$ref": "#/$defs/a", "minimum": 3},
        {"type": "object", "properties": {"a": {}}, "anyOf": [{"required": ["a"]}]},
        {"type": "string", "pattern": "^a*$", "maxLength": 3},
    ],
)
def test_what_cannot_be_enforced_is_refused_of_strict_schemas_only(schema: dict[str, Any]) -> None:
    prepare(schema, "p", strict=False)
    with pytest.raises(ApiError, match="cannot be enforced"):
        prepare(schema, "p", strict=True)


@pytest.mark.parametrize(
    ("schema", "normal"),
    [
        ({"minimum": 3}, {"minimum": 3, "type": "number"}),
        ({"properties": {}}, {"properties": {}, "type": "object"}),
        ({"allOf": [{"type": "integer"}], "description": "d"}, {"type": "integer", "description": "d"}),
        (
            {"type": "object", "required": ["a"], "additionalProperties": {"type": "integer"}},
            {
                "type": "object",
                "required": ["a"],
                "additionalProperties": {"type": "integer"},
                "properties": {"a": {"type": "integer"}},
            },
        ),
        ({"type": "string", "enum": ["a", 1]}, {"type": "string", "enum": ["a"]}),
        ({"minLength": 2.0}, {"minLength": 2, "type": "string"}),
    ],
)
def test_schemas_are_put_into_words_that_are_enforced(schema: dict[str, Any], normal: dict[str, Any]) -> None:
    assert prepare(schema, "p", strict=False) == normal


def test_one_definition_used_twice_is_no_circle() -> None:
    both = {"a": {"$ref": "#/$defs/x"}, "b": {"$ref": "#/$defs/x"}}
    prepare({"$defs": {"x": {"type": "integer"}}, "type": "object", "properties": both}, "p", strict=True)


WORDS = st.sampled_from(
    ["type", "items", "properties", "$ref", "enum", "anyOf", "required", "object", "#", "#/items", "pattern", "minimum"]
)


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
        max_leaves=12,
    )
)
def test_whatever_comes_is_taken_or_refused_with_its_param(schema: Any) -> None:
    try:
        prepare(schema, "p", strict=False)
        refused = None
    except ApiError as error:
        refused = (error.status, error.param)
    assert refused in (None, (400, "p"))

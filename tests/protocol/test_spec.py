"""Specs without a server: what they become, and that the rules name their field."""

import pytest
from pydantic import ValidationError

from gridx.domain.job import JobSpec
from gridx.domain.matching import REQUIRE_KEYS
from gridx.domain.resources import Resources
from gridx.protocol.spec import NOT_YET, BatchBody, JobBody


def test_defaults_are_those_of_the_contract() -> None:
    spec = JobBody.model_validate({"code": "1"}).to_spec()

    assert spec == JobSpec(code="1")
    assert spec.resources == Resources(1.0, 256, 0, 256)
    assert (spec.limits.timeout_s, spec.limits.output_bytes, spec.limits.processes) == (
        60.0, 1_048_576, 64,
    )  # fmt: skip
    assert (spec.max_attempts, spec.priority, spec.retry_on_failure) == (3, 0, False)


def test_node_is_javascript_and_a_command_is_bash() -> None:
    assert JobBody.model_validate({"code": "1", "language": "node"}).to_spec().language == (
        "javascript"
    )
    spec = JobBody.model_validate({"command": ["a", "b"]}).to_spec()
    assert (spec.language, spec.command, spec.code) == ("bash", ("a", "b"), "")


def test_credits_become_micro_credits() -> None:
    assert JobBody.model_validate({"code": "1", "max_cost": "1.5"}).to_spec().max_cost == 1_500_000


@pytest.mark.parametrize("name", NOT_YET)
def test_what_comes_later_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        JobBody.model_validate({"code": "1", name: None})

    assert refusal.value.errors()[0]["ctx"]["field"] == name  # pyright: ignore[reportTypedDictNotRequiredAccess]


def test_every_key_of_matching_may_be_required() -> None:
    require = dict.fromkeys(REQUIRE_KEYS, "x") | {
        "sandbox": "gvisor",
        "enforces": "io",
        "label:site": "lab",
    }

    assert JobBody.model_validate({"code": "1", "require": require}).require == require


@pytest.mark.parametrize("model", [JobBody, BatchBody])
def test_the_schema_says_what_the_validator_checks(model: type[JobBody | BatchBody]) -> None:
    schema = model.model_json_schema()

    assert schema["additionalProperties"] is False
    assert len(schema["oneOf"]) == 2
    assert "default" not in schema["properties"].get("code", {})

"""Parameters: one frozen pydantic class per stage, read from one section of params.yaml; unknown keys are errors."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks._errors import StageError
from tasks.stages import Stage


class StageParams(BaseModel):
    """Base of every stage's `Params`: immutable, and a misspelt key is an error rather than a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


P = TypeVar("P", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; StageError if it is absent, not YAML or not a mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(f"{path} does not exist; next: `make profile P=laptop` writes the default one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StageError(f"{path} is not valid YAML: {error}; next: correct the line named above") from None
    if not isinstance(content, dict):
        raise StageError(f"{path} holds a {type(content).__name__}; allowed: a mapping of stage name to parameters")
    return content


def read_section(path: Path, stage: Stage) -> dict[str, Any]:
    """The section of one stage; StageError if any section of the file is not the name of a stage."""
    content = read_yaml(path)
    unknown = sorted(set(content) - {str(s) for s in Stage})
    if unknown:
        raise StageError(
            f"{path}: unknown section {', '.join(map(repr, unknown))}; allowed: {', '.join(Stage)}; "
            f"next: rename or remove it"
        )
    section = content.get(stage)
    if section is None:
        raise StageError(f"{path}: section '{stage}' is missing; next: copy it from profiles/laptop.yaml")
    if not isinstance(section, dict):
        raise StageError(f"{path}: section '{stage}' is {section!r}; allowed: a mapping of parameter to value")
    return section


def validate(model: type[P], values: dict[str, Any], where: str) -> P:
    """Validated parameters; every problem becomes one line that names key, value found and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"]))
            if problem["type"] == "extra_forbidden":
                fields = model.model_fields
                allowed = ", ".join(sorted(fields)) if len(problem["loc"]) == 1 else "see the class that defines it"
                lines.append(f"unknown key '{key}' (allowed: {allowed})")
                continue
            hint = " (YAML reads `1e-4` as text: write `1.0e-4`)" if _looks_like_number(problem["input"]) else ""
            lines.append(f"{key or 'section'}: {problem['msg']}; found {problem['input']!r}{hint}")
        raise StageError(
            f"{where}: {len(lines)} invalid parameter(s):\n  "
            + "\n  ".join(lines)
            + "\nnext: correct them and run again"
        ) from None


def _looks_like_number(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True

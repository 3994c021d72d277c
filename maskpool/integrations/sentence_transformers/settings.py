"""The settings of a whole saved model."""

from __future__ import annotations

from typing import Any

from maskpool.errors import FolderError, RequirementError
from maskpool.integrations.st_host import check_version_requirements
from maskpool.trust import Folder, reason_of
from maskpool.trust.fields import STRING, integer, one_of, optional, refused


def read_settings(folder: Folder) -> dict[str, Any]:
    """Check and return the settings of a whole model: prompts, similarity function, truncation, requirements.

    Raises:
        FolderError: The file is malformed.
        RequirementError: The model needs other versions of packages.
    """
    name = "config_sentence_transformers.json"
    config = folder.table(name) or {}
    path = folder.at(name)
    prompts = config.get("prompts", {})
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise refused(path, "prompts", "a table of strings", prompts)
    for setting, field in (
        ("default_prompt_name", optional(STRING)),
        ("similarity_fn_name", optional(one_of(("cosine", "dot", "euclidean", "manhattan")))),
        ("truncate_dim", optional(integer(1, 1 << 24))),
    ):
        if setting in config and not field.holds(config[setting]):
            raise refused(path, setting, field.words, config[setting])
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise refused(path, "default_prompt_name", f"the name of a prompt ({', '.join(prompts) or 'none'})", default)
    requirements = config.get("requirements")
    if requirements is not None and not isinstance(requirements, dict):
        raise refused(path, "requirements", "a table of versions", requirements)
    try:
        check_version_requirements(requirements, source=str(folder))
    except ImportError as error:
        raise RequirementError(str(error)) from error
    except Exception as error:
        raise FolderError(f"{path} must have in requirements versions of packages: {reason_of(error)}") from error
    return config

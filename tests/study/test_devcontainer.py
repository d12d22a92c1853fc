"""The container for editors is described in the form that its specification gives; no container was started here."""

import json
import re

from emosafe_lib.study.paths import project_root

CONTAINER = json.loads((project_root() / ".devcontainer" / "devcontainer.json").read_text())
# Of containers.dev's schema, what is used here: the key with the type of its value.
SHAPE = {
    "name": str,
    "image": str,
    "hostRequirements": dict,
    "postCreateCommand": str,
    "postAttachCommand": str,
    "forwardPorts": list,
    "portsAttributes": dict,
    "customizations": dict,
}


def test_keys_and_types_are_those_of_the_specification():
    assert {key: type(value) for key, value in CONTAINER.items()} == SHAPE
    assert all(isinstance(port, int) for port in CONTAINER["forwardPorts"])
    assert set(CONTAINER["portsAttributes"]) == {str(port) for port in CONTAINER["forwardPorts"]}
    assert set(CONTAINER["hostRequirements"]) <= {"cpus", "memory", "storage", "gpu"}
    assert all(re.fullmatch(r"\d+[tgmk]b", CONTAINER["hostRequirements"][key]) for key in ("memory", "storage"))


def test_it_has_a_python_that_the_package_takes_makes_the_environment_and_a_kernel_and_opens_jupyter_s_port():
    assert CONTAINER["image"].endswith("python:3.11") and 8888 in CONTAINER["forwardPorts"]
    setup, kernel = CONTAINER["postCreateCommand"].split(" && ")
    assert setup == "make setup" and kernel.startswith(".venv/bin/python -m ipykernel install --user --name python3 ")
    assert re.search(r"^setup:", (project_root() / "Makefile").read_text(), re.MULTILINE)


def test_what_it_names_in_the_checkout_is_there():
    named = re.findall(r"notebooks/[\w.]+\.ipynb", CONTAINER["postAttachCommand"])
    assert named and all((project_root() / name).is_file() for name in named)

"""Renders the Kustomize folders of the repository: the part of Kustomize that they use.

Kustomize itself is a Go program that no package registry of Python has. Anything that this module does not know raises
ValueError, so that nothing of a folder is passed over in silence.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

Document = dict[str, Any]


def render(folder: Path) -> list[Document]:
    """The documents that `kubectl apply -k FOLDER` would send, in no particular order."""
    [kustomization] = _documents((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    if unknown := set(kustomization) - {"apiVersion", "kind", "resources", "images", "patches"}:
        raise ValueError(f"{folder} uses {unknown}, which is not known here")
    documents = [document for resource in kustomization["resources"] for document in _resource(folder / resource)]
    for image in kustomization.get("images", ()):
        _tag(documents, image["name"], image["newTag"])
    for patch in kustomization.get("patches", ()):
        chosen = [document for document in documents if _is_target(document, patch["target"])]
        if not chosen:
            raise ValueError(f"{folder} patches {patch['target']}, which does not exist")
        for document in chosen:
            [steps] = _documents(patch["patch"])
            for step in steps:
                _apply(document, step)
    return documents


def main() -> None:
    """Write into the folder of the first argument a file of documents for each of the other folders."""
    target, *folders = map(Path, sys.argv[1:])
    for folder in folders:
        (target / f"{folder.name}.yaml").write_text(yaml.safe_dump_all(render(folder)), encoding="utf-8")


def pod_of(document: Document) -> dict[str, Any]:
    """The template of the pods of a Deployment or CronJob."""
    spec = document["spec"]
    template: dict[str, Any] = spec.get("jobTemplate", {}).get("spec", spec)["template"]
    return template


def _resource(path: Path) -> Iterator[Document]:
    if path.is_dir():
        yield from render(path)
    else:
        yield from _documents(path.read_text(encoding="utf-8"))


def _documents(text: str) -> Iterator[Any]:
    """As `yaml.safe_load_all`, but in C, which takes a tenth of the time."""
    yield from yaml.load_all(text, yaml.CSafeLoader)


def _tag(documents: list[Document], name: str, tag: str) -> None:
    containers = [
        container
        for document in documents
        if document["kind"] in {"Deployment", "CronJob"}
        for container in pod_of(document)["spec"]["containers"]
        if container["image"] == name
    ]
    if not containers:
        raise ValueError(f"no container has the image {name}")
    for container in containers:
        container["image"] = f"{name}:{tag}"


def _is_target(document: Document, target: dict[str, str]) -> bool:
    if set(target) - {"kind", "name"}:
        raise ValueError(f"targets are chosen by kind and name, not as in {target}")
    name = document["metadata"]["name"]
    return (document["kind"], name) == (target["kind"], target.get("name", name))


def _apply(document: Document, step: dict[str, Any]) -> None:
    """Apply a step of a JSON patch (RFC 6902)."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
    place: Any = document
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    if step["op"] == "add" and isinstance(place, list) and last == "-":
        place.append(step["value"])
    elif isinstance(place, dict) and (step["op"] == "add" or (step["op"] == "replace" and last in place)):
        place[last] = step["value"]
    elif step["op"] == "remove" and isinstance(place, dict):
        del place[last]
    else:
        raise ValueError(f"cannot apply {step} to {document['kind']} {document['metadata']['name']}")


if __name__ == "__main__":
    main()

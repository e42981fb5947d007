"""The part of the JobSet API that launch/gke.yaml uses, as a small schema, and a check against it.

Field names, kinds and rules are those of the API references: JobSet v1alpha2 (jobset.sigs.k8s.io),
Job v1 and Pod v1 (kubernetes.io). A field that is not listed is a problem, as it is for a cluster that
validates strictly.
"""

from __future__ import annotations

import re
from typing import Any

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1035 label
QUANTITY = re.compile(r"\d+(\.\d+)?([kMGTPE]i?|m)?")


def one_of(*values: str):
    return lambda found: found in values or f"is {found!r}, not one of {', '.join(values)}"


def matches(pattern: re.Pattern):
    return lambda found: bool(pattern.fullmatch(str(found))) or f"is {found!r}"


def whole(least: int):
    return lambda found: (type(found) is int and found >= least) or f"is {found!r}"


def text(found: Any):
    return (isinstance(found, str) and bool(found)) or f"is {found!r}, not a string"


def flag(found: Any):
    return isinstance(found, bool) or f"is {found!r}, not true or false"


def mapping(found: Any):
    wrong = not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values())
    return f"is {found!r}, not strings by name" if wrong else True


def quantities(found: Any):
    wrong = not isinstance(found, dict) or not all(
        QUANTITY.fullmatch(str(value)) for value in found.values()
    )
    return f"is {found!r}, not amounts by name" if wrong else True


# A dict: an object's fields, "!" marks those it must have. A list of one: an array of that.
CONTAINER = {
    "name!": matches(NAME),
    "image!": text,
    "workingDir": text,
    "command": [text],
    "args": [text],
    "env": [
        {"name!": text, "value": text, "valueFrom": {"fieldRef": {"fieldPath!": text}}},
    ],
    "ports": [{"containerPort!": whole(1), "name": text, "protocol": one_of("TCP", "UDP")}],
    "resources": {"requests": quantities, "limits": quantities},
    "volumeMounts": [{"name!": matches(NAME), "mountPath!": text, "readOnly": flag}],
}
POD = {
    "restartPolicy": one_of("Never", "OnFailure"),
    "terminationGracePeriodSeconds": whole(0),
    "nodeSelector": mapping,
    "hostNetwork": flag,
    "dnsPolicy": one_of("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    "serviceAccountName": text,
    "containers!": [CONTAINER],
    "volumes": [
        {
            "name!": matches(NAME),
            "persistentVolumeClaim": {"claimName!": text, "readOnly": flag},
            "emptyDir": {"medium": one_of("Memory", ""), "sizeLimit": matches(QUANTITY)},
        }
    ],
}
JOB = {
    "completionMode": one_of("Indexed", "NonIndexed"),
    "completions": whole(1),
    "parallelism": whole(1),
    "backoffLimit": whole(0),
    "podFailurePolicy": {
        "rules!": [
            {
                "action!": one_of("FailJob", "FailIndex", "Ignore", "Count"),
                "onExitCodes": {
                    "containerName": matches(NAME),
                    "operator!": one_of("In", "NotIn"),
                    "values!": [whole(0)],
                },
                "onPodConditions": [
                    {"type!": text, "status!": one_of("True", "False", "Unknown")},
                ],
            }
        ]
    },
    "template!": {"metadata": {"labels": mapping, "annotations": mapping}, "spec!": POD},
}
JOBSET = {
    "apiVersion!": one_of("jobset.x-k8s.io/v1alpha2"),
    "kind!": one_of("JobSet"),
    "metadata!": {
        "name!": matches(NAME),
        "namespace": matches(NAME),
        "labels": mapping,
        "annotations": mapping,
    },
    "spec!": {
        "network": {
            "enableDNSHostnames": flag,
            "subdomain": matches(NAME),
            "publishNotReadyAddresses": flag,
        },
        "suspend": flag,
        "ttlSecondsAfterFinished": whole(0),
        "successPolicy": {"operator!": one_of("All", "Any"), "targetReplicatedJobs": [text]},
        "failurePolicy": {
            "maxRestarts": whole(0),
            "rules": [
                {
                    "name!": matches(re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")),
                    "action!": one_of(
                        "FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"
                    ),
                    "onJobFailureReasons": [
                        one_of(
                            "BackoffLimitExceeded",
                            "DeadlineExceeded",
                            "FailedIndexes",
                            "MaxFailedIndexesExceeded",
                            "PodFailurePolicy",
                        )
                    ],
                    "targetReplicatedJobs": [text],
                }
            ],
        },
        "replicatedJobs!": [
            {
                "name!": matches(NAME),
                "replicas": whole(1),
                "template!": {"metadata": {"labels": mapping}, "spec!": JOB},
            }
        ],
    },
}


def problems(manifest: Any) -> list[str]:
    """What is wrong with a JobSet, one line each with its place; empty where nothing is."""
    found = list(_against(manifest, JOBSET, "jobset"))
    return found or list(_rules(manifest))


def _against(value: Any, schema: Any, place: str):
    if callable(schema):
        answer = schema(value)
        if answer is not True:
            yield f"{place} {answer or 'is not valid'}"
    elif isinstance(schema, list):
        if not isinstance(value, list) or not value:
            yield f"{place} is not a list with something in it"
            return
        for index, item in enumerate(value):
            yield from _against(item, schema[0], f"{place}[{index}]")
    elif not isinstance(value, dict):
        yield f"{place} is not an object"
    else:
        fields = {name.rstrip("!"): inner for name, inner in schema.items()}
        for name in value:
            if name not in fields:
                yield f"{place}.{name} is no field of this API"
        for name in schema:
            if name.endswith("!") and name[:-1] not in value:
                yield f"{place}.{name[:-1]} is missing"
        for name, inner in fields.items():
            if name in value:
                yield from _against(value[name], inner, f"{place}.{name}")


def _rules(manifest: dict[str, Any]):
    """What the API asks beyond single fields."""
    for job in manifest["spec"]["replicatedJobs"]:
        place, spec = f"job {job['name']}", job["template"]["spec"]
        pod = spec["template"]["spec"]
        longest = f"{manifest['metadata']['name']}-{job['name']}-{job.get('replicas', 1) - 1}"
        longest += f"-{spec.get('completions', 1) - 1}-abcde"
        if len(longest) > 63:
            yield f"{place}: its pods' names, {longest}, exceed 63 characters"
        containers = {container["name"] for container in pod["containers"]}
        for rule in spec.get("podFailurePolicy", {}).get("rules", []):
            if pod.get("restartPolicy") != "Never":
                yield f"{place}: podFailurePolicy needs restartPolicy Never"
            if ("onExitCodes" in rule) == ("onPodConditions" in rule):
                yield f"{place}: a rule has either onExitCodes or onPodConditions"
            codes = rule.get("onExitCodes", {})
            if codes.get("containerName", "") not in containers | {""}:
                yield f"{place}: no container {codes['containerName']!r}"
            if codes and (sorted(set(codes["values"])) != codes["values"] or 0 in codes["values"]):
                yield f"{place}: exit codes are ordered, unlike and not 0"
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{place}: no volume {mount['name']!r}"
            for variable in container.get("env", []):
                if ("value" in variable) == ("valueFrom" in variable):
                    yield f"{place}: {variable['name']} has either value or valueFrom"
            asked, most = (container.get("resources", {}).get(k) for k in ("requests", "limits"))
            for name, amount in (asked or {}).items():
                if "/" in name and (most or {}).get(name) != amount:
                    yield f"{place}: {name} is asked for and limited to the same amount"

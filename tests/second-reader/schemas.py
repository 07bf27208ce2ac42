"""Judges JSON texts by the published schemas, with the jsonschema package.

usage: schemas.py SCHEMA_FOLDER < CASES

Each line of CASES is `{"schema": "order.v1.json", "text": "<JSON>", "what": "<for people>", "accept": true|false}`.
Prints one JSON object: how many were judged, and those on which the schema decides otherwise than `accept`.
"""

import json
import pathlib
import sys

from jsonschema import Draft202012Validator
from referencing import Registry, Resource


def validators(folder):
    schemas = {path.name: json.loads(path.read_text()) for path in pathlib.Path(folder).glob("*.json")}
    registry = Registry().with_resources((name, Resource.from_contents(schema)) for name, schema in schemas.items())
    for name, schema in schemas.items():
        Draft202012Validator.check_schema(schema)
        if schema.get("$id") != name:
            sys.exit(f"{name}: its $id is {schema.get('$id')!r}")
    return {name: Draft202012Validator(schema, registry=registry) for name, schema in schemas.items()}


def main():
    judges = validators(sys.argv[1])
    judged, other = 0, []
    for line in sys.stdin:
        case = json.loads(line)
        accepts = judges[case["schema"]].is_valid(json.loads(case["text"]))
        judged += 1
        if accepts != case["accept"]:
            other.append({"schema": case["schema"], "what": case["what"], "schema accepts": accepts})
    print(json.dumps({"judged": judged, "schemas": sorted(judges), "other": other[:20], "others": len(other)}))


main()

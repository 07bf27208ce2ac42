"""Runs plugins of volatility3 over a memory image, in one process, and prints one JSON object: plugin -> rows.

    volatility.py IMAGE SYMBOLS PLUGIN[:key=value,...] ...

SYMBOLS is the only place where symbols are looked for; nothing is downloaded. Symbol files are held against volatility3's own
schema with a part of their types: with all of them that takes minutes, and the types are all of one making.
"""
import json
import pathlib
import sys

import jsonschema
import volatility3.plugins
import volatility3.schemas
import volatility3.symbols
from volatility3 import framework
from volatility3.framework import automagic, constants, contexts, plugins
from volatility3.framework.interfaces import renderers as interface
from volatility3.framework.renderers import format_hints  # noqa: F401


def check(symbols):
    """Holds symbol files against the schema that they name."""
    for file in pathlib.Path(symbols, "linux").glob("*.json"):
        isf = json.loads(file.read_text())
        for part, count in (("user_types", 200), ("enums", 100), ("symbols", 2000)):
            isf[part] = dict(list(isf[part].items())[:count])
        schema = pathlib.Path(volatility3.schemas.__file__).parent / f"schema-{isf['metadata']['format']}.json"
        jsonschema.validate(isf, json.loads(schema.read_text()))
    volatility3.schemas.validate = lambda *_, **__: True


def main():
    image, symbols, wanted = sys.argv[1], sys.argv[2], sys.argv[3:]
    constants.OFFLINE = True
    check(symbols)
    volatility3.symbols.__path__ = [symbols] + list(volatility3.symbols.__path__)
    framework.require_interface_version(2, 0, 0)
    framework.import_files(volatility3.plugins, True)
    known = framework.list_plugins()
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = "file://" + image
    found, kernel = {}, None
    for word in wanted:
        name, _, options = word.partition(":")
        plugin = known[name]
        for option in filter(None, options.split(",")):
            key, _, value = option.partition("=")
            context.config[f"plugins.{plugin.__name__}.{key}"] = [int(v) for v in value.split("+")]
        if kernel is not None:
            # The same kernel: stacking layers and reading symbols again would take most of the time.
            context.config.splice(f"plugins.{plugin.__name__}.kernel", kernel)
        chosen = automagic.choose_automagic(automagic.available(context), plugin)
        made = plugins.construct_plugin(context, chosen, plugin, "plugins", None, None)
        if kernel is None:
            kernel = context.config.branch(f"plugins.{plugin.__name__}.kernel")
        grid = made.run()
        columns = [c.name for c in grid.columns]
        rows = []

        def visit(node, depth):
            row = {c: (None if isinstance(v, interface.BaseAbsentValue) else plain(v)) for c, v in zip(columns, node.values)}
            row["depth"] = node.path_depth - 1
            rows.append(row)
            return depth

        grid.populate(visit, 0)
        found[name] = rows
    json.dump(found, sys.stdout)


def plain(value):
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


main()

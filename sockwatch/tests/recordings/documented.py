"""Runs the examples of docs/export.md, so that what people copy is what is tested."""

import ast
import re

PAGE = "docs/export.md"


def answer(library, directory, **names):
    """What the example with this library gives for the partitions in a directory."""
    with open(PAGE) as file:
        blocks = re.findall(r"(?:^ {4}.*\n)+", file.read(), re.MULTILINE)
    (block,) = [block for block in blocks if f"{library}." in block]
    code = re.sub(r"^ {4}", "", block, flags=re.MULTILINE).replace("DIRECTORY", directory).replace(".show()", ".collect()")
    tree = ast.parse(code)
    tree.body[-1] = ast.Assign([ast.Name("answer", ast.Store())], tree.body[-1].value)
    exec(compile(ast.fix_missing_locations(tree), PAGE, "exec"), names)
    return names["answer"]

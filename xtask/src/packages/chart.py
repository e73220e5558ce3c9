"""The Helm chart, as far as it can be judged without Helm: chart.py CHART VERSION.

Chart.yaml and values.yaml are YAML and of this version; templates open and close their blocks, use no value that values.yaml
does not have, and no definition that is not made.
"""

import pathlib
import re
import sys

import yaml

chart = pathlib.Path(sys.argv[1])
wrong = []
about = yaml.safe_load((chart / "Chart.yaml").read_text())
for key in ["version", "appVersion"]:
    if about[key] != sys.argv[2]:
        wrong.append(f"Chart.yaml: {key} is {about[key]}, and the program's {sys.argv[2]}")
values = yaml.safe_load((chart / "values.yaml").read_text())
texts = {path.name: path.read_text() for path in sorted((chart / "templates").iterdir())}
defined = {name for text in texts.values() for name in re.findall(r'{{-? define "([^"]+)"', text)}


def has(path):
    at = values
    for word in path.split("."):
        if not isinstance(at, dict) or word not in at:
            return False
        at = at[word]
    return True


for name, text in texts.items():
    depth = 0
    for action in re.findall(r"{{-?\s*(.*?)\s*-?}}", text, re.S):
        word = action.split(" ", 1)[0]
        depth += {"if": 1, "with": 1, "range": 1, "define": 1, "end": -1}.get(word, 0)
        if depth < 0:
            wrong.append(f"{name}: an end without a beginning")
        wrong += [f"{name}: no value {path}" for path in re.findall(r"\.Values\.([A-Za-z.]+)", action) if not has(path)]
        wrong += [f"{name}: no definition {it}" for it in re.findall(r'include "([^"]+)"', action) if it not in defined]
    if depth != 0:
        wrong.append(f"{name}: {depth} blocks without an end")
    if name.endswith(".yaml") and "{{" not in text.splitlines()[0] and "\t" in text:
        wrong.append(f"{name}: YAML has no tabs")
if wrong:
    sys.exit("\n".join(wrong))
print(f"{chart}: {len(texts)} templates")

"""A bill of materials, read by OWASP's own library: sbom.py FILE. Valid by the schema, and each reference leads somewhere."""

import json
import sys

from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = open(sys.argv[1], encoding="utf-8").read()
wrong = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
if wrong is not None:
    sys.exit(f"{sys.argv[1]}: not valid: {wrong}")
bom = Bom.from_json(json.loads(text))
known = {component.bom_ref.value for component in bom.components} | {bom.metadata.component.bom_ref.value}
for dependency in bom.dependencies:
    for reference in [dependency.ref, *(needed.ref for needed in dependency.dependencies)]:
        if reference.value not in known:
            sys.exit(f"{sys.argv[1]}: {reference.value} is nobody's")
without = [component.name for component in bom.components if not component.licenses]
if without or len(bom.components) < 50:
    sys.exit(f"{sys.argv[1]}: {len(bom.components)} components; without a licence: {without}")
print(f"{sys.argv[1]}: {len(bom.components)} components, valid CycloneDX 1.5")

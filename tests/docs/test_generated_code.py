"""protos/buf.gen.yaml generates code for TypeScript that Node can use."""

import base64
import json
import os
import subprocess
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # ships none
from footfall.identity.v1.identity_service_pb2 import WatchVisitorsRequest
from footfall.identity.v1.visitor_pb2 import VISITOR_STATE_AUTHENTICATED

from deploy.embedded import ROOT
from tests.tools.contact_center import NODE

PROGRAM = """
import { create, toBinary } from '@bufbuild/protobuf';
import { WatchVisitorsRequestSchema as schema } from './footfall/identity/v1/identity_service_pb.js';

const request = create(schema, { listFirst: true, contactIds: ['c-1'], states: [3] });
console.log(Buffer.from(toBinary(schema, request)).toString('base64'));
"""


def test_node_writes_a_request_with_generated_code(tmp_path: Path) -> None:
    packages = ROOT / ".venv" / "node" / "node_modules"
    template = yaml.safe_load((ROOT / "protos" / "buf.gen.yaml").read_text(encoding="utf-8"))
    [plugin] = [one for one in template["plugins"] if one.get("local") == "protoc-gen-es"]
    assert plugin["opt"] == ["target=ts", "import_extension=js"]
    plugin |= {"out": str(tmp_path), "opt": ["target=js", "import_extension=js"]}  # this Node may not know TypeScript
    path = os.pathsep.join([str(packages / ".bin"), str(ROOT / ".venv" / "bin"), os.environ["PATH"]])
    generate = ["buf", "generate", "--template", json.dumps(template | {"plugins": [plugin]})]
    subprocess.run(generate, cwd=ROOT / "protos", env={**os.environ, "PATH": path}, check=True)
    (tmp_path / "node_modules").symlink_to(packages)
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (tmp_path / "program.js").write_text(PROGRAM, encoding="utf-8")
    written = subprocess.run([NODE, "program.js"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    request = WatchVisitorsRequest.FromString(base64.b64decode(written))
    assert request == WatchVisitorsRequest(list_first=True, contact_ids=["c-1"], states=[VISITOR_STATE_AUTHENTICATED])

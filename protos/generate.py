"""Turns protos/footfall/**/*.proto into protos/gen: messages, gRPC stubs and their types.

The only generator. `make proto` runs it, `--check` fails when the checked-in files are not what it would write.
The tools are the oldest supported ones on purpose: generated files refuse a runtime older than their generator.
"""

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parent
GEN = ROOT / "gen"


def generate(out: Path) -> None:
    """Write all generated modules below `out`."""
    protos = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("footfall/**/*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT}",
            f"--proto_path={well_known}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *protos,
        ]
    )
    if status:
        sys.exit(f"protoc failed with status {status}")
    for name in ("event", "collector", "identity", "history"):
        (out / "footfall" / name / "v1" / "__init__.py").touch()
        (out / "footfall" / name / "__init__.py").touch()
    (out / "footfall" / "py.typed").touch()


def is_stale(fresh: Path, checked_in: Path) -> bool:
    """Whether the two trees differ in any file."""

    def files(tree: Path) -> set[str]:
        return {str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file() and p.suffix != ".pyc"}

    names = files(fresh)
    return names != files(checked_in) or bool(filecmp.cmpfiles(fresh, checked_in, names, shallow=False)[1])


def main() -> None:
    """Write protos/gen, or with --check only compare it."""
    parser = argparse.ArgumentParser(prog="python protos/generate.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when protos/gen is stale")
    is_check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        generate(fresh)
        if is_check:
            if is_stale(fresh, GEN):
                sys.exit("protos/gen is stale: run `make proto` and commit the result")
            return
        shutil.rmtree(GEN, ignore_errors=True)
        shutil.copytree(fresh, GEN)


if __name__ == "__main__":
    main()

"""The commands of the pages work as printed, in the shell of a reader whose suite is `make run` on ports of its own.

A page is one shell. Its `sh` blocks run in their order, and the first command that fails ends the page. A comment
directly below a command shows with what its output ends; other comments are notes. In a shown output `...` stands for
anything, white space does not count, and any id or time stands for any other (`_VARYING`). A block whose first line is
`# needs ...` does not run; the test of these blocks lists them. A `console` block is a session in a terminal of its
own: where it starts a service, the settings in it are checked.
"""

import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.embedded import DEFAULT_PORTS, ROOT
from docs.pages import Block, Page, pages
from tests.tools.make_run import Run, make_run

SHELL_SECONDS = 90
_NEEDS = re.compile(r"# needs (.+)")
_VARYING = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b1[0-9]{12}\b")
_MARK = "\x1e"


def is_run(block: Block) -> bool:
    """Whether it is commands that can run here."""
    return block.language == "sh" and not _NEEDS.match(block.text)


NOT_RUN = {
    "CONTRIBUTING.md": ["minutes each"],
    "docs/api/grpc.md": ["Node 20 or newer with npm, and a package registry"],
    "docs/dev/performance.md": ["wrk (bench/install-wrk), three minutes, and a machine with nothing else to do"],
    "docs/ops/deploy.md": [
        "Docker with Compose; keep the secrets",
        "a cluster, and a copy of the folder with your images and secrets",
    ],
    "docs/ops/run.md": ["the suite of docker-compose.yml, and a server to import from"],
    "docs/ops/stores.md": ["up to a minute"],
    "docs/ops/tls.md": [
        "Docker with Compose, and these variables in the environment:",
        "a cluster, and the certificates made above",
    ],
}
"""By page, what its blocks need that do not run here."""
CONSOLE_COMMANDS = [
    pytest.param(command, id=f"{page.name}:{block.line}")
    for page in pages()
    for block in page.blocks
    if block.language == "console"
    for command in re.findall(r"^\$ (.*\.venv/bin/footfall-\w+)$", block.text, re.MULTILINE)
]
"""Those that start a service in the foreground."""
PAGES = [page for page in pages() if any(is_run(block) for block in page.blocks)]
"""Those with a block that runs."""


class Step(NamedTuple):
    """Commands with the output that the page shows of them."""

    line: int
    commands: str
    output: str | None
    """None when the page shows none."""


def steps(block: Block) -> Iterator[Step]:
    """The commands of a block, cut after each output that it shows."""
    commands: list[str] = []
    output: list[str] = []
    line, is_note = block.line, True
    for number, text in enumerate(block.text.splitlines(), block.line):
        is_comment = text.startswith("#")
        if output and not is_comment:
            yield Step(line, "\n".join(commands), "\n".join(output))
            line, commands, output = number, [], []
        if is_comment and not is_note:
            output.append(text.removeprefix("#"))
        else:
            commands.append(text)
            is_note = is_comment or not text
    yield Step(line, "\n".join(commands), "\n".join(output) if output else None)


def ends_like(written: str, shown: str) -> bool:
    """Whether an output ends with what a page shows of it."""

    def comparable(text: str) -> str:
        return _VARYING.sub("*", "".join(text.split()))

    pattern = ".*".join(re.escape(comparable(part)) for part in shown.split("..."))
    return re.search(rf"{pattern}\Z", comparable(written)) is not None


@pytest.fixture(scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    """The reader's first terminal."""
    with make_run(tmp_path_factory.mktemp("docs") / "data") as run:
        await run.ready()
        yield run


@pytest.fixture(scope="module")
def checkout(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the repository, whose `.data` is the data folder of the run."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name != ".data":
            (folder / path.name).symlink_to(path)
    (folder / ".data").symlink_to(run.data_dir)
    return folder


@pytest.fixture(scope="module")
def reader(run: Run) -> Mapping[str, str]:
    """The environment of the reader's second terminal."""
    own = {name: value for name, value in os.environ.items() if "_" not in name or name.startswith("LC_")}
    return own | {name: str(port) for name, port in run.ports.items()} | {"DATA_DIR": str(run.data_dir)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_as_printed(page: Page, checkout: Path, reader: Mapping[str, str]) -> None:
    blocks = filter(is_run, page.blocks)
    expected = [step for block in blocks for step in steps(block)]
    script = "\n".join(["set -eo pipefail", *(f"{step.commands}\nprintf '{_MARK}'" for step in expected)])
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=checkout,
        env=reader,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SHELL_SECONDS,
        check=False,
    )
    *written, last = ended.stdout.split(_MARK)
    wrong = [
        f"{page.name}:{step.line}: shown is\n{step.output}\nwritten was\n{output}"
        for step, output in zip(expected, written, strict=False)
        if step.output is not None and not ends_like(output, step.output)
    ]
    if ended.returncode:
        wrong.append(f"{page.name}:{expected[len(written)].line}: exit code {ended.returncode}\n{last}")
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("command", CONSOLE_COMMANDS)
def test_a_service_that_a_page_starts_alone_has_the_right_settings(command: str, checkout: Path) -> None:
    ended = subprocess.run(
        ["bash", "-c", f"{command} check"],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=SHELL_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "The settings are right.\n")


def test_a_run_writes_what_the_quickstart_shows(run: Run) -> None:
    [shown] = [
        block.text.partition("\n")[2]
        for page in pages()
        for block in page.blocks
        if page.name == "docs/quickstart.md" and block.text.startswith("$ make run\n")
    ]
    written = run.output.replace(str(run.data_dir), "/home/me/footfall/.data")
    for name, port in DEFAULT_PORTS.items():
        written = written.replace(f":{run.ports[name]}", f":{port}")
    beginning, credentials, _ = written.partition("/.data/credentials)\n")
    assert ends_like(beginning + credentials, shown), written


def test_commands_that_cannot_run_here_say_what_they_need() -> None:
    needs: dict[str, list[str]] = {}
    for page in pages():
        for block in page.blocks:
            if block.language == "sh" and (found := _NEEDS.match(block.text)):
                needs.setdefault(page.name, []).append(found[1])
    assert needs == NOT_RUN

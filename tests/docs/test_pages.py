"""The pages are run: files are written, commands are typed, and what they print is compared with the page."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from headwater.cli.main import headwater as command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(?P<kind>\w*) ?(?P<what>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)

# For machines without curl: the options that the pages use, and nothing else.
_CURL = '''#!{python}
"""A curl for the pages: -s, -X METHOD, -H HEADER, -d BODY, URL."""
import sys, urllib.error, urllib.request
arguments, method, headers, body, url = iter(sys.argv[1:]), None, {{}}, None, ""
for argument in arguments:
    if argument == "-X":
        method = next(arguments)
    elif argument == "-H":
        name, _, value = next(arguments).partition(": ")
        headers[name] = value
    elif argument == "-d":
        body = next(arguments).encode()
    elif argument != "-s":
        url = argument
try:
    answer = urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method))
except urllib.error.HTTPError as refused:
    answer = refused
sys.stdout.write(answer.read().decode())
'''


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    kind: str
    what: str
    body: str
    line: int


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        yield Block(found["kind"], found["what"].strip(), found["body"], text.count("\n", 0, found.start()) + 2)


def _is_run(page: Path) -> bool:
    return any(block.kind == "console" for block in _blocks(page))


RUN = [page for page in PAGES if page.exists() and _is_run(page)]


def _typed(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block and what it prints."""
    command, printed = "", ""
    for line in block.body.split("\n")[:-1]:
        if line.startswith("$ "):
            if command:
                yield command, printed
            command, printed = line[2:], ""
        else:
            printed += f"{line}\n"
    if command:
        yield command, printed


def _pattern(printed: str) -> re.Pattern[str]:
    """`…` alone in a line stands for any lines, `…` within a line for any text."""
    lines = []
    for line in printed.split("\n"):
        if line == "…":
            lines.append(r"(?:[^\n]*\n)*?")
        else:
            lines.append("[^\n]*?".join(re.escape(part) for part in line.split("…")) + r"\n")
    return re.compile("".join(lines[:-1]))


class Terminal:
    """A shell that remembers variables between commands, in a folder of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def type(self, line: str) -> tuple[int, str]:
        """The exit code and everything the line printed."""
        kept = self.folder / ".kept"
        script = f"{line}\n_code=$?\nexport -p | grep -v '^declare -[a-z]*r' > {kept}\nexit $_code\n"
        before = f". {kept}\n" if kept.exists() else ""
        result = subprocess.run(
            ["bash", "-a", "-c", before + script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
            check=False,
        )
        return result.returncode, result.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal with our command on its PATH; whatever was started in it is ended."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    if shutil.which("curl") is None:
        (programs / "curl").write_text(_CURL.format(python=sys.executable))
        (programs / "curl").chmod(0o755)
    shown = Path(sys.executable).parent
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HEADWATER_", "COV"))},
        "PATH": f"{shown}:{programs}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for name in ("DATABASE_URL", "REDIS_URL"):
        environment.pop(name, None)
    folder = tmp_path / "here"
    folder.mkdir()
    opened = Terminal(folder, environment)
    yield opened
    if (folder / ".headwater").exists():
        opened.type("unset HEADWATER_DATABASE_URL; headwater down")


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_does_what_it_says(page: Path, terminal: Terminal) -> None:
    port = str(_free_port())
    for block in _blocks(page):
        action, _, name = block.what.partition("=")
        if action in ("file", "append"):
            path = terminal.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            assert action == "file" or path.exists(), f"{page.name}:{block.line}: there is no {name} to append to"
            before = path.read_text() if action == "append" else ""
            path.write_text(before + block.body.replace("8003", port))
        elif block.kind == "console":
            for line, printed in _typed(block):
                typed = line.replace("8003", port)
                if typed.startswith("headwater up "):
                    typed = f"{typed} --port {port}" if ">" not in typed else typed.replace(">", f"--port {port} >", 1)
                code, said = terminal.type(typed)
                assert code == 0, f"{page.name}:{block.line}: {line}\n{said}"
                wanted = _pattern(printed.replace("8003", port))
                said = said if said.endswith("\n") or not said else f"{said}\n"
                assert wanted.fullmatch(said), (
                    f"{page.name}:{block.line}: {line}\n--- wanted\n{printed}--- said\n{said}"
                )


def test_there_are_pages_to_run() -> None:
    assert ROOT / "docs/tutorial/shop.md" in RUN


def test_what_differs_from_the_page_is_noticed() -> None:
    assert _pattern("a\n…\nd\n").fullmatch("a\nb\nc\nd\n")
    assert _pattern("id: …, name: x\n").fullmatch("id: 17, name: x\n")
    assert not _pattern("id: …, name: x\n").fullmatch("id: 17, name: y\n")
    assert not _pattern("a\n…\nd\n").fullmatch("a\nb\n")
    assert not _pattern("").fullmatch("something\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_python_of_a_page_is_python_and_imports_what_exists(page: Path) -> None:
    if page.parent.name == "reference":
        return  # signatures, made from the code
    for block in _blocks(page):
        if block.kind != "python":
            continue
        body = block.body
        if block.what.startswith("append=") and body.startswith(" "):
            body = f"def within():\n{body}"
        where = f"{page.name}:{block.line}"
        for node in ast.walk(ast.parse(body, where)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "headwater":
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_quotes_stands_there(page: Path) -> None:
    """A block marked from=FILE is a part of that file; output is quoted from the comment at its end."""
    for block in _blocks(page):
        action, _, name = block.what.partition("=")
        if action == "from":
            text = (ROOT / name).read_text(encoding="utf-8")
            quoted = block.body if block.kind == "python" else "".join(f"# {x}\n" for x in block.body.splitlines())
            assert quoted in text, f"{page.name}:{block.line} is not in {name}"


def _headwater_lines(page: Path) -> Iterator[str]:
    for block in _blocks(page):
        if block.kind in ("console", "sh"):
            for line in block.body.split("\n"):
                bare = line.removeprefix("$ ").partition(" > ")[0].partition("  #")[0]
                if bare.startswith("headwater "):
                    yield bare


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    """Also of blocks that cannot be run here."""
    for line in _headwater_lines(page):
        words = shlex.split(line)[1:]
        context = click.Context(command, info_name="headwater")
        found = command.get_command(context, words[0])
        if isinstance(found, click.Group) and len(words) > 1:
            found = found.get_command(context, words[1])
        assert found is not None, f"{page.name}: {line}"
        known = {opt for parameter in found.params for opt in parameter.opts} | {"--help", "-h"}
        unknown = [word for word in words[1:] if word.startswith("-") and word.partition("=")[0] not in known]
        assert not unknown, f"{page.name}: {line}: {unknown}"

"""A workshop for modules that live for one test: packages in a temporary folder, with revisions the test writes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent
from uuid import uuid4

from headwater.kernel.module import Module, System
from headwater.kernel.settings import Settings

_REVISION = '''"""{name}."""

from alembic import op

revision = "{revision}"
down_revision = {down!r}
branch_labels = {labels!r}
depends_on = {depends_on!r}
{options}


def upgrade():
{body}
'''

_RUN = """
import asyncio, sys
from headwater.kernel.migrations import migrate
from headwater.kernel.settings import Settings
from headwater.systems import find

report = asyncio.run(migrate(find(sys.argv[1]), Settings(database_url=sys.argv[2]), lock_wait_seconds=120))
print(len(report.applied))
"""


@dataclass
class Workshop:
    """Makes modules below `folder`, which is on sys.path."""

    folder: Path
    modules: list[Module] = field(default_factory=list)
    package: str = field(default_factory=lambda: f"workshop_{uuid4().hex[:10]}")

    def module(self, name: str, *depends_on: str) -> Module:
        """A new module of that name."""
        if not (self.folder / self.package).exists():
            (self.folder / self.package).mkdir()
            (self.folder / self.package / "__init__.py").touch()
        package = self.folder / self.package / name
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "migrations").mkdir()
        made = Module(name=name, package=f"{self.package}.{name}", summary=name, depends_on=depends_on)
        self.modules.append(made)
        return made

    def revision(
        self,
        module: Module,
        number: int,
        *statements: str,
        body: str = "",
        depends_on: tuple[str, ...] | None = None,
        down: str | None = None,
        options: str = "",
        name: str = "",
    ) -> Path:
        """Write (or write over) a revision that executes `statements`, or has the given body."""
        first = number == 1
        path = module.migrations / f"{number:04}_step.py"
        lines = "\n".join(f"op.execute({statement!r})" for statement in statements) or dedent(body) or "pass"
        path.write_text(
            _REVISION.format(
                name=name or f"Step {number}",
                revision=f"{module.name}_{number:04}",
                down=down or (None if first else f"{module.name}_{number - 1:04}"),
                labels=(module.name,) if first else None,
                depends_on=depends_on if depends_on is not None else (("kernel_0001",) if first else None),
                options=options,
                body=indent(lines, "    "),
            )
        )
        return path

    def system(self) -> System:
        """The system of all modules made so far."""
        return System("workshop", self.modules)

    def system_name(self) -> str:
        """How another process finds the system."""
        lines = ["from headwater.kernel.module import Module, System", ""]
        made = ", ".join(
            f"Module(name={m.name!r}, package={m.package!r}, summary='', depends_on={m.depends_on!r})"
            for m in self.modules
        )
        lines.append(f"SYSTEM = System('workshop', [{made}])")
        (self.folder / self.package / "system.py").write_text("\n".join(lines))
        return f"{self.package}.system:SYSTEM"

    async def process(self, settings: Settings) -> asyncio.subprocess.Process:
        """A process of its own that migrates; it prints how many revisions it applied."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _RUN,
            self.system_name(),
            settings.direct,
            env={**os.environ, "PYTHONPATH": self._python_path()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    def _python_path(self) -> str:
        return os.pathsep.join(filter(None, (str(self.folder), os.environ.get("PYTHONPATH", ""))))

    def command(self, dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`headwater ARGUMENTS` on the workshop's system and that database, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "headwater.cli.main", *arguments, "--system", self.system_name()],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": self._python_path(), "HEADWATER_DATABASE_URL": dsn},
        )

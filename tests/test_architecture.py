"""The house's rules, read from the source: who may import whom, and what no module does."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ldm.files import ROOT

GROUND = {"ldm", *(f"ldm.{path.stem}" for path in (ROOT / "ldm").glob("[a-z]*.py"))}
"""Modules that all rooms use and that use none."""

FLOORS = [{room} for room in ("nn", "diffusion", "checkpoint", "data", "toyworld")]
FLOORS += [{"training", "evaluation"}, {"runtime"}, {"report"}, {"commands"}, {"api"}]
"""Rooms from below to above. A module imports from its own room and from the floors below."""

WITHOUT_LIGHTNING = {"nn", "diffusion", "checkpoint", "data", "toyworld", "evaluation", "runtime", "report"}

LIBRARY = sorted((ROOT / "ldm").rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))
OPTIONS = [f"ldm.commands.options.{path.stem}" for path in sorted((ROOT / "ldm/commands/options").glob("[a-z]*.py"))]
"""The modules of flags."""


def module_name(path: Path) -> str:
    """`ldm/nn/unet.py` is `ldm.nn.unet`, and `ldm/nn/__init__.py` is `ldm.nn`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            if origin == "ldm":
                yield from ((node.lineno, f"ldm.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, origin


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def room_of(name: str) -> str:
    """`nn` of `ldm.nn.unet`; empty on the ground floor."""
    return "" if name in GROUND else name.split(".")[1]


def floor_of(room: str) -> int:
    return -1 if room == "" else next(floor for floor, rooms in enumerate(FLOORS) if room in rooms)


def may_import(importer: str, imported: str) -> bool:
    """Whether a module of the library may import another one."""
    own, other = room_of(importer), room_of(imported)
    if importer == "ldm" and other == "api":  # the door to the room on top, opened when a name is used
        return True
    return own == other or floor_of(other) < floor_of(own)


def wrong_imports(name: str, tree: ast.Module) -> Iterator[str]:
    for line, imported in imports(tree):
        if imported.startswith("."):
            yield f"line {line}: a relative import"
        elif within(imported, "ldm") and not may_import(name, imported):
            yield f"line {line}: {imported} is not below"


def lightning_imports(name: str, tree: ast.Module) -> Iterator[str]:
    if room_of(name) in WITHOUT_LIGHTNING:
        for line, imported in imports(tree):
            if any(within(imported, package) for package in ("pytorch_lightning", "lightning", "lightning_fabric")):
                yield f"line {line}: {imported}"


def prints(name: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"line {node.lineno}: print"


def swallowed_errors(name: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = {one.id for one in ast.walk(node.type) if isinstance(one, ast.Name)} if node.type else set()
        if node.type is None:
            yield f"line {node.lineno}: a bare except"
        elif caught & {"Exception", "BaseException"} and not any(isinstance(one, ast.Raise) for one in ast.walk(node)):
            yield f"line {node.lineno}: any error is caught and none is raised"


def loose_loading(name: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load_state_dict":
            given = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "strict")]
            if any(not (isinstance(value, ast.Constant) and value.value is True) for value in given):
                yield f"line {node.lineno}: load_state_dict that is not strict"


def imports_by_string(name: str, tree: ast.Module) -> Iterator[str]:
    if name == "ldm.choices":  # the one table of them; its strings are code, never a config's
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            used = node.id if isinstance(node, ast.Name) else node.attr
            if used in ("__import__", "import_module"):
                yield f"line {node.lineno}: {used}"


def messages_made_of_foreign_text(name: str, tree: ast.Module) -> Iterator[str]:
    """What is logged is words of ours with foreign text as arguments, in which the formatter spells line breaks."""
    levels = ("debug", "info", "warning", "error", "exception", "critical")
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level)) if level in levels:
                message = node.args[:1]
            case ast.Call(func=ast.Name(id="warn_once")):
                message = node.args[1:2]
            case _:
                continue
        if not (message and isinstance(message[0], ast.Constant)):
            yield f"line {node.lineno}: the message is not a constant"


Rule = Callable[[str, ast.Module], Iterator[str]]
RULES: list[Rule] = [
    wrong_imports,
    lightning_imports,
    prints,
    swallowed_errors,
    loose_loading,
    imports_by_string,
    messages_made_of_foreign_text,
]


def broken(rule: Rule, name: str, source: str) -> list[str]:
    return list(rule(name, ast.parse(source)))


def test_there_is_something_to_read() -> None:
    assert {"ldm.files", "ldm.nn.unet", "ldm.commands.app"} <= {module_name(path) for path in LIBRARY}
    assert {"txt2img.py", "img2img.py", "dreambooth.py"} <= {path.name for path in SCRIPTS}


def test_every_module_is_in_a_room_on_a_floor() -> None:
    rooms = {room_of(module_name(path)) for path in LIBRARY}
    assert rooms <= {"", *set.union(*FLOORS)}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_breaks_the_rule(rule: Rule) -> None:
    found = {
        module_name(path): lines
        for path in LIBRARY
        if (lines := broken(rule, module_name(path), path.read_text(encoding="utf-8")))
    }
    assert not found


def test_scripts_import_commands_only() -> None:
    for path in SCRIPTS:
        ours = [imported for _, imported in imports(ast.parse(path.read_text("utf-8"))) if within(imported, "ldm")]
        assert ours
        assert all(within(imported, "ldm.commands") for imported in ours), path.name


@pytest.mark.parametrize(("paths", "limit"), [(LIBRARY, 400), (SCRIPTS, 60)], ids=["ldm", "scripts"])
def test_no_file_is_longer_than_one_idea(paths: list[Path], limit: int) -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in paths}
    assert {name: length for name, length in lengths.items() if length > limit} == {}


def test_the_api_is_named_and_flags_are_read_before_anything_heavy_is_imported() -> None:
    modules, heavy = ", ".join(["ldm", "ldm.commands.app", *OPTIONS]), ("torch", "transformers", "numpy", "PIL")
    code = f"import sys, {modules}; dir(ldm); ldm.UserError; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sampling_imports_nothing_that_only_training_or_scoring_needs() -> None:
    heavy = ("pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "tensorboard")
    code = f"import sys, ldm.commands.sampling; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (wrong_imports, "ldm.files", "from ldm.nn import layers"),
        (wrong_imports, "ldm.nn.unet", "from ldm.diffusion.noise import draw_noise"),
        (wrong_imports, "ldm.nn.unet", "def f():\n    import ldm.checkpoint.keys as keys"),
        (wrong_imports, "ldm.nn.unet", "from . import layers"),
        (wrong_imports, "ldm.diffusion.samplers.ddim", "from ldm.data import images"),
        (wrong_imports, "ldm.toyworld.judge.encoder", "from ldm.training.trainer import fit"),
        (wrong_imports, "ldm.commands.app", "from ldm.api import load"),
        (wrong_imports, "ldm", "from ldm.commands import app"),
        (lightning_imports, "ldm.data.batches", "from pytorch_lightning.callbacks import Callback"),
        (lightning_imports, "ldm.nn", "try:\n    import lightning.pytorch\nexcept ImportError:\n    raise"),
        (prints, "ldm.nn.unet", "def f():\n    print('x')"),
        (swallowed_errors, "ldm.nn.unet", "try:\n    f()\nexcept:\n    raise"),
        (swallowed_errors, "ldm.nn.unet", "try:\n    f()\nexcept Exception:\n    pass"),
        (swallowed_errors, "ldm.nn.unet", "try:\n    f()\nexcept (OSError, BaseException) as error:\n    log(error)"),
        (loose_loading, "ldm.nn.unet", "m.load_state_dict(x, strict=False)"),
        (loose_loading, "ldm.nn.unet", "self.unet.load_state_dict(x, False)"),
        (imports_by_string, "ldm.nn.unet", "import importlib\nimportlib.import_module(name)"),
        (imports_by_string, "ldm.nn.unet", "__import__(name)"),
        (messages_made_of_foreign_text, "ldm.nn.unet", "log.info(f'drew {name}')"),
        (messages_made_of_foreign_text, "ldm.nn.unet", "log.warning(text)"),
        (messages_made_of_foreign_text, "ldm.nn.unet", "warn_once(log, f'{path} is dark')"),
    ],
)
def test_a_broken_rule_is_noticed(rule: Rule, name: str, source: str) -> None:
    assert broken(rule, name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ldm.config", "from ldm.errors import UserError"),
        ("ldm.nn.unet", "from ldm.nn.layers import conv3x3\nimport torch"),
        ("ldm.nn.unet", "import ldmx.commands"),
        ("ldm.checkpoint.loading", "from ldm.diffusion.latent_diffusion import LatentDiffusion"),
        ("ldm.training.trainer", "import pytorch_lightning as pl\nfrom ldm.checkpoint.saving import checkpoint_writer"),
        ("ldm.commands.app", "from ldm.training.trainer import fit\nfrom ldm.toyworld.judge.encoder import judge"),
        ("ldm.nn.unet", "try:\n    f()\nexcept Exception as error:\n    raise UserError('x') from error"),
        ("ldm.nn.unet", "try:\n    f()\nexcept OSError:\n    pass"),
        (
            "ldm.nn.unet",
            "m.load_state_dict(x, assign=True)\nm.load_state_dict(x, strict=True)\nzip(a, b, strict=False)",
        ),
        ("ldm.nn.unet", "log.info('print(x)')"),
    ],
)
def test_what_is_allowed_breaks_no_rule(name: str, source: str) -> None:
    assert not [line for rule in RULES for line in broken(rule, name, source)]

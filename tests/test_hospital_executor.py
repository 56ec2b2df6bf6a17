"""The hospital's own flwr-clientapp: it unpacks no bundle that holds code, nor one that the hospital does not know."""

import hashlib
import importlib.machinery
import importlib.util
import io
import warnings
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.supernode.runtime import run_clientapp

HOME = Path(__file__).parents[1]
SCRIPT = HOME / "docs" / "deploy" / "executor" / "flwr-clientapp"
PROJECT = '[tool.flwr.app.components]\nclientapp = "clients.door:app"\n'


@pytest.fixture
def executor(monkeypatch) -> ModuleType:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("executor", str(SCRIPT))
    spec = importlib.util.spec_from_loader("executor", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def sent_by_flwr_run() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Flower reads .gitignore in a way that its library deprecates
        return build_fab_from_disk(HOME)


def bundle(files: dict[str, str | bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


PLAIN = {"pyproject.toml": PROJECT, "configs/run.yaml": "name: x\n", ".info/CONTENT": "", "LICENSE": "MIT"}


def test_the_bundle_that_flwr_run_sends_for_this_repository_is_taken(executor, tmp_path):
    sent = sent_by_flwr_run()
    assert executor.refusal(sent, tmp_path / "none") is None
    assert sent == sent_by_flwr_run()  # the sum that a hospital lists is the one that comes


def test_with_a_list_only_what_is_on_it_is_taken(executor, tmp_path):
    plain, known = bundle(PLAIN), tmp_path / "bundles"
    known.write_text(f"{'0' * 64}  of spring\n\n")
    digest = hashlib.sha256(plain).hexdigest()
    assert (
        executor.refusal(plain, known)
        == f"this site runs only the bundles listed in bundles, and not the one of SHA-256 {digest}"
    )
    with known.open("a") as file:
        file.write(f"{digest}  of autumn\n")
    assert executor.refusal(plain, known) is None


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"evil.py": ""}, "the bundle holds 'evil.py', and this site runs no code but its own"),
        ({"configs/evil.pyc": ""}, "the bundle holds 'configs/evil.pyc', and"),
        ({"evil.cpython-311-x86_64-linux-gnu.so": ""}, "the bundle holds 'evil.cpython"),
        ({"evil": ""}, "the bundle holds 'evil', and"),
        ({".info/evil": ""}, "the bundle holds '.info/evil', and"),
        ({"configs/run.yaml": "x" * 10_000_001}, "the bundle is larger than 10 MB"),
        (
            {"pyproject.toml": PROJECT.replace("clients.door:app", "os:system")},
            "the bundle's ClientApp is 'os:system', and this",
        ),
        ({"pyproject.toml": "tool = 3"}, "the bundle cannot be read (TypeError)"),
        ({"pyproject.toml": b"\xff"}, "the bundle cannot be read (UnicodeDecodeError)"),
    ],
)
def test_a_bundle_with_code_or_another_app_is_refused(executor, tmp_path, files, why):
    said = executor.refusal(bundle({**PLAIN, **files}), tmp_path / "none")
    assert said is not None and said.startswith(why) and "\n" not in said


def test_what_is_no_bundle_is_refused(executor, tmp_path):
    broken = bytearray(bundle(PLAIN))
    broken[40] ^= 0xFF
    assert executor.refusal(b"PK", tmp_path / "none") == "the bundle cannot be read (BadZipFile)"
    assert executor.refusal(bytes(broken), tmp_path / "none") is not None
    assert executor.refusal(bundle({"x.yaml": ""}), tmp_path / "none") == "the bundle cannot be read (KeyError)"


def test_a_file_that_is_named_twice_is_refused(executor, tmp_path):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for content in (PROJECT, PROJECT.replace("clients.door", "evil")):
            archive.writestr("pyproject.toml", content)
    assert executor.refusal(made.getvalue(), tmp_path / "none") == "the bundle names a file twice"


def test_flower_unpacks_nothing_that_is_refused(executor, monkeypatch):
    """Where Flower keeps the function that unpacks is its own affair: this fails when it has moved."""
    unpacked: list[bytes] = []
    monkeypatch.setattr(run_clientapp, "install_from_fab", lambda content, skip_prompt: unpacked.append(content))
    executor.stand_in_place()
    run_clientapp.install_from_fab(bundle(PLAIN), skip_prompt=True)
    with pytest.raises(ValueError, match="this site runs no code but its own"):
        run_clientapp.install_from_fab(bundle({**PLAIN, "evil.py": ""}), skip_prompt=True)
    assert unpacked == [bundle(PLAIN)]
    source = Path(run_clientapp.__file__).read_text()
    assert source.count("install_from_fab(") == 1 and "install_from_fab(fab.content, skip_prompt=True)" in source

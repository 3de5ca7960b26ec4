"""Hostile recipes and checkpoints are refused in one line, and nothing of them runs.

Each payload makes a folder, the marker, when it is executed; that the payloads work is tested too.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from small import QUICK
from terminal import ROOT, Terminal

from ifir_lightning.errors import InputError
from ifir_lightning.plugins import is_plugin
from ifir_lightning.retriever import load_retriever
from ifir_lightning.security import check_checkpoint, refusal


class Payload:
    """Makes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def foreign(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that Python finds and that makes the marker when it is imported."""
    (tmp_path / "foreign_module.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "foreign_module.Thing"


CLASSES = {
    "os.system": ("os.system", {"command": "mkdir {marker}"}),
    "Popen": ("subprocess.Popen", {"args": ["mkdir", "{marker}"]}),
    "foreign": ("foreign_module.Thing", {}),
    "by a detour": ("ifir_lightning.cli.os.system", {"command": "mkdir {marker}"}),
    "harmless, but not allowed": ("torch.nn.Linear", {"in_features": 1, "out_features": 1}),
}
PLACES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "model.loss": lambda spec: {"model": {"loss": spec}},
    "trainer.callbacks": lambda spec: {"trainer": {"callbacks": [spec]}},
    "trainer.logger": lambda spec: {"trainer": {"logger": spec}},
}


def specification(case: str, marker: Path) -> dict[str, Any]:
    path, arguments = CLASSES[case]
    text = yaml.safe_dump({"class_path": path, "init_args": arguments})
    return yaml.safe_load(text.replace("{marker}", str(marker)))


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", CLASSES)
def test_a_class_of_a_recipe(case: str, place: str, terminal: Terminal, marker: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(PLACES[place](specification(case, marker))))
    line = terminal.refuses("fit", *QUICK, f"--config={recipe}")
    assert_denied(line, case, marker)


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("argument", ["--model.loss", "--model.loss.class_path", "--trainer.callbacks+"])
@pytest.mark.parametrize("case", CLASSES)
def test_a_class_on_the_command_line(case: str, argument: str, terminal: Terminal, marker: Path) -> None:
    line = terminal.refuses("fit", *QUICK, f"{argument}={CLASSES[case][0]}")
    assert_denied(line, case, marker)


def assert_denied(line: str, case: str, marker: Path) -> None:
    named = {"by a detour": "posix.system"}.get(case, CLASSES[case][0])
    for word in (f"class_path {named} ", "ifir_lightning", "lightning.pytorch", "torch.optim", "IFIR_PLUGINS"):
        assert word in line
    assert not marker.exists()


def test_a_function_given_to_an_allowed_class(terminal: Terminal, marker: Path, tmp_path: Path) -> None:
    callback = {
        "class_path": "lightning.pytorch.callbacks.LambdaCallback",
        "init_args": {"on_fit_start": specification("Popen", marker)},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    assert "class_path subprocess.Popen " in terminal.refuses("fit", *QUICK, f"--config={recipe}")
    assert not marker.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"])
def test_a_yaml_tag(tag: str, terminal: Terminal, marker: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model:\n  loss: {tag} [{str(marker)!r}]\n")
    line = terminal.refuses("fit", *QUICK, f"--config={recipe}")
    assert f"YAML tag {tag}" in line
    assert not marker.exists()
    yaml.unsafe_load(recipe.read_text())
    assert marker.exists(), "the payload does not work"


def test_a_plug_in_is_allowed_by_its_name(tmp_path: Path) -> None:
    """In a process of its own: what is allowed holds for the process."""
    (tmp_path / "my_package.py").write_text(
        "from ifir_lightning.losses import Loss\n\n\nclass MyLoss(Loss):\n    forward = None\n"
    )
    command = [sys.executable, "-m", "ifir_lightning", "fit", *QUICK, "--model.loss=my_package.MyLoss"]
    search = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": search, "IFIR_PLUGINS": "other, my_package"}
    done = subprocess.run(
        [*command, "--print_config"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "class_path: my_package.MyLoss" in done.stdout


@pytest.mark.parametrize("plugins", ["*", "my-package", "jsonargparse", "ok,../up"])
def test_names_of_plug_ins_that_are_refused(plugins: str, terminal: Terminal) -> None:
    terminal.monkeypatch.setenv("IFIR_PLUGINS", plugins)
    line = terminal.refuses("fit", *QUICK)
    assert f"IFIR_PLUGINS is {plugins}; allowed are names of packages" in line


def test_the_refusal_says_which_plug_ins_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Importing 'a.B' is not allowed, ..."
    assert "IFIR_PLUGINS (none now)" in str(refusal(said))
    monkeypatch.setenv("IFIR_PLUGINS", "x,y")
    assert "IFIR_PLUGINS (x, y)" in str(refusal(said))
    assert refusal("some other fault") is None


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("name", ["os.mkdir", "foreign_module.Thing", "ifir_lightning.cli.os.mkdir"])
@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_a_benchmark_that_is_a_foreign_function(
    command: str, name: str, terminal: Terminal, marker: Path, tmp_path: Path
) -> None:
    if command == "fit":
        line = terminal.refuses("fit", *QUICK, f"--followir.tasks=[{name}:{marker}]")
    else:
        (tmp_path / "run.trec").write_text("q Q0 p 1 0.5 x\n")
        line = terminal.refuses("evaluate", f"--task={name}:{marker}", f"--run={tmp_path}/run.trec")
    assert f"no benchmark is called '{name}'" in line
    assert "IFIR_PLUGINS" in line
    assert not marker.exists()


def test_a_plug_in_is_a_package_not_what_begins_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFIR_PLUGINS", "mine,other.module")
    assert [is_plugin(name) for name in ("mine", "mine.a.B", "other.module.C")] == [True] * 3
    assert [is_plugin(name) for name in ("mines.B", "other.B", "ours.mine.B", "")] == [False] * 4
    monkeypatch.setenv("IFIR_PLUGINS", "")
    assert not is_plugin("mine")


@pytest.fixture(params=["zip", "plain", "in a state"])
def hostile_ckpt(request: pytest.FixtureRequest, marker: Path, tmp_path: Path) -> Path:
    """A pickle as a .ckpt file: in torch's format, in Python's, and deep inside something that looks right."""
    file = tmp_path / "hostile.ckpt"
    if request.param == "plain":
        file.write_bytes(pickle.dumps(Payload(marker)))
    else:
        payload = Payload(marker)
        torch.save({"state_dict": {}, "loops": {"x": [payload]}} if "state" in request.param else payload, file)
    return file


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "export"])
def test_a_pickle_as_checkpoint(command: str, hostile_ckpt: Path, terminal: Terminal, marker: Path) -> None:
    if command == "export":
        line = terminal.refuses("export", f"--checkpoint={hostile_ckpt}", f"--output={hostile_ckpt}-export")
    else:
        line = terminal.refuses(command, *QUICK, f"--ckpt_path={hostile_ckpt}")
    assert "hostile.ckpt" in line
    assert "could run code" in line
    assert not marker.exists()


def test_a_pickle_as_retriever(hostile_ckpt: Path, marker: Path) -> None:
    with pytest.raises(InputError, match=r"hostile\.ckpt.*could run code"):
        load_retriever(str(hostile_ckpt))
    assert not marker.exists()


def test_the_pickles_work(hostile_ckpt: Path, marker: Path) -> None:
    with suppress(RuntimeError):  # of torch, after Python's own pickle has run
        torch.load(hostile_ckpt, weights_only=False)
    assert marker.exists()


def test_reading_pickles_with_less_care_is_no_option(terminal: Terminal) -> None:
    assert "weights_only is false" in terminal.refuses("fit", *QUICK, "--weights_only=false")


@pytest.mark.parametrize("url", ["http://host/x.ckpt", "s3://bucket/x.ckpt", "file:///x.ckpt", "simplecache::x.ckpt"])
def test_a_url_as_checkpoint(url: str, terminal: Terminal) -> None:
    line = terminal.refuses("validate", *QUICK, f"--ckpt_path={url}")
    assert f"ckpt_path {url} is a URL" in line
    assert "on this machine" in line


def test_a_url_of_a_file_that_is_there(hostile_ckpt: Path, terminal: Terminal, marker: Path) -> None:
    assert "is a URL" in terminal.refuses("fit", *QUICK, f"--ckpt_path=file://{hostile_ckpt}")
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["hyper_parameters", "datamodule_hyper_parameters"])
def test_hyper_parameters_that_name_functions(kind: str, terminal: Terminal, marker: Path, tmp_path: Path) -> None:
    file = tmp_path / "hyper.ckpt"
    named = {"_instantiator": "os.system", "_class_path": "os.system", "command": f"mkdir {marker}"}
    torch.save({"state_dict": {}, "global_step": 1, kind: named}, file)
    line = terminal.refuses("fit", *QUICK, f"--ckpt_path={file}")
    assert kind in line
    assert "could name functions" in line
    assert not marker.exists()


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), "x", {}, {"state_dict": {}, "global_step": 1}], ids=str)
def test_a_file_that_fit_did_not_write(content: Any, terminal: Terminal, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    line = terminal.refuses("validate", *QUICK, f"--ckpt_path={tmp_path}/other.ckpt")
    assert "other.ckpt' holds no " in line
    assert "allowed are checkpoints that fit wrote" in line


def test_a_folder_that_is_no_run(terminal: Terminal, marker: Path, tmp_path: Path) -> None:
    """As shards of other programs: torch would unpickle their index."""
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Payload(marker)))
    assert f"ckpt_path {tmp_path} is a folder without checkpoints" in terminal.refuses(
        "fit", *QUICK, f"--ckpt_path={tmp_path}"
    )
    assert not marker.exists()
    with suppress(AttributeError):  # after it has run
        dcp.FileSystemReader(tmp_path).read_metadata()
    assert marker.exists(), "the payload does not work"


@pytest.mark.parametrize("content", [b"a: [\n", b"t", b"", b"\x80\x02]q\x00(", b"(lp0\n"], ids=str)
def test_a_file_that_is_no_pickle(content: bytes, tmp_path: Path) -> None:
    """torch's reader raises what its bytes happen to make it do (of a ``.ckpt`` it wants a zip file first)."""
    (tmp_path / "other.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"has no readable .*other.bin .*; allowed is a complete"):
        check_checkpoint(f"{tmp_path}/other.bin")

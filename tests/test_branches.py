"""One run, every length: a fit that branches off a trunk and decays is the training that decays at its end."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from small import DROPOUT, QUICK, TINY, retriever, synthetic_data, trainer

from ifir_lightning import launchers, manifests
from ifir_lightning.callbacks.checkpoint_io import ManifestIO
from ifir_lightning.callbacks.checkpoints import Checkpoints
from ifir_lightning.errors import InputError
from ifir_lightning.optimization import AdamW, Schedule
from ifir_lightning.resume import _TRAINER, Resume, Start, branch_point, find_start, training_settings

ROOT = Path(__file__).parents[1]
PEAK = 0.004
TRUNK = Schedule("constant", warmup_steps=2)
BRANCH = Schedule("linear", warmup_steps=2, decay_steps=4)
TRAINED = {f"trainer.{name}": None for name in _TRAINER}


class Rates(Callback):
    """Step -> the learning rates with which it is made."""

    def __init__(self) -> None:
        self.used: dict[int, list[float]] = {}

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        self.used[trainer.global_step] = [group["lr"] for group in optimizer.param_groups]


def fit(
    folder: Path,
    backbone: Path,
    schedule: Schedule,
    max_steps: int,
    keep_steps: list[int] | None = None,
    ckpt_path: Path | None = None,
    **optimizer: Any,
) -> tuple[dict[str, torch.Tensor], dict[int, list[float]]]:
    """Final weights, and the learning rates of every step; two batches to a step, seven to an epoch."""
    settings = AdamW(**({"learning_rate": PEAK, "weight_decay": 0.1} | optimizer))
    module = retriever(backbone, "maxsim", TINY | DROPOUT, schedule=schedule, optimizer=settings)
    rates = Rates()
    fit_trainer = trainer(
        folder,
        rates,
        Checkpoints(keep_last=1, keep_steps=keep_steps),
        max_steps=max_steps,
        accumulate_grad_batches=2,
        enable_checkpointing=True,
        plugins=[ManifestIO()],
    )
    fit_trainer.fit(module, synthetic_data(29, 4), ckpt_path=ckpt_path)
    return module.state_dict(), rates.used


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory, modernbert: Path) -> Path:
    """The checkpoints of eleven steps at a constant rate."""
    folder = tmp_path_factory.mktemp("trunk")
    fit(folder, modernbert, TRUNK, 11, keep_steps=[3, 6, 7])
    return folder / "checkpoints"


def test_the_steps_to_keep_are_kept_beside_the_last(trunk: Path) -> None:
    assert [manifests.verify(path).step for path in manifests.in_order(trunk)] == [3, 6, 7, 11]


@pytest.mark.parametrize("step", [3, 6, 7])
def test_a_branch_is_the_whole_training_bit_for_bit(trunk: Path, step: int, modernbert: Path, tmp_path: Path) -> None:
    """Within an epoch (3, 6) and between two (7 is the end of the second, by the four steps of each)."""
    whole, rates = fit(tmp_path / "whole", modernbert, BRANCH, step + 4)
    branch, branch_rates = fit(tmp_path / "branch", modernbert, BRANCH, step + 4, ckpt_path=at(trunk, step))
    assert branch_rates == {number: rate for number, rate in rates.items() if number >= step}
    assert [rate[0] for rate in branch_rates.values()] == [PEAK, 0.75 * PEAK, 0.5 * PEAK, 0.25 * PEAK]
    for name, weight in whole.items():
        assert torch.equal(branch[name], weight), name


def test_the_rate_is_that_of_the_step_wherever_the_trunk_was_left(
    trunk: Path, modernbert: Path, tmp_path: Path
) -> None:
    """Step 7 of a decay over the steps 5 to 9 has half the peak, though the checkpoint of the trunk says the peak."""
    _, rates = fit(tmp_path, modernbert, BRANCH, 9, ckpt_path=at(trunk, 7))
    assert {step: rate[0] / PEAK for step, rate in rates.items()} == {7: 0.5, 8: 0.25}


def test_a_branch_has_the_rates_and_decays_of_its_own_recipe(trunk: Path, modernbert: Path, tmp_path: Path) -> None:
    own = {"learning_rate": 0.001, "new_layers_learning_rate": 0.008}
    _, rates = fit(tmp_path, modernbert, BRANCH, 11, ckpt_path=at(trunk, 7), **own)
    shares = {7: 1, 8: 0.75, 9: 0.5, 10: 0.25}
    assert rates == {step: [0.001 * share, 0.001 * share, 0.008 * share] for step, share in shares.items()}


def at(trunk: Path, step: int) -> Path:
    return trunk / f"step-{step:08d}.ckpt"


def save(folder: Path, step: int, settings: dict[str, Any]) -> Path:
    """A whole checkpoint in a run folder, of which only the manifest matters here."""
    path = at(folder / "checkpoints", step)
    content = dict.fromkeys(("state_dict", "pytorch-lightning_version", "retriever"))
    ManifestIO().save_checkpoint(content | {"global_step": step, "epoch": 0, "settings": settings}, path)
    return path


def find(folder: Path, start: Path | None, rate: float = 0.1, resume: Resume = "auto") -> Start | None:
    """Where a fit with ``--ckpt_path start`` begins."""
    trained = {"default_root_dir": str(folder), **dict.fromkeys(_TRAINER)}
    ckpt_path = None if start is None else str(start)
    recipe = {"seed_everything": 0, "model": {"rate": rate}, "data": {}, "trainer": trained, "ckpt_path": ckpt_path}
    return find_start(folder, ckpt_path, resume, training_settings(recipe))


def test_a_branch_that_was_interrupted_goes_on_as_any_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trunk, branch = save(tmp_path / "trunk", 30, {"model.rate": 0.2}), tmp_path / "branch"
    assert find(branch, trunk) == Start(trunk, 30)
    branch.mkdir()
    (branch / "metrics.csv").touch()  # it died before its first checkpoint
    assert find(branch, trunk) == Start(trunk, 30)
    assert f"fit begins at {trunk}" in caplog.text
    own = save(branch, 35, {"seed_everything": 0, "model.rate": 0.1, "ckpt_path": str(trunk)} | TRAINED)
    assert find(branch, trunk) == find(branch, None) == Start(own, 35)
    save(tmp_path / "trunk", 40, {})
    assert find(branch, tmp_path / "trunk") == Start(own, 35)  # which went on since


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": True}, r"ckpt_path was '.*step-00000030.ckpt' and is '.*step-00000020.ckpt'"),
        ({"rate": 0.3}, "model.rate was 0.1 and is 0.3"),
        ({"resume": "never"}, "already holds a run"),
    ],
)
def test_a_branch_from_elsewhere_or_with_other_settings_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    trunk, other = save(tmp_path / "trunk", 30, {}), save(tmp_path / "trunk", 20, {})
    save(tmp_path / "branch", 35, {"seed_everything": 0, "model.rate": 0.1, "ckpt_path": str(trunk)} | TRAINED)
    with pytest.raises(InputError, match=words):
        find(tmp_path / "branch", **({"start": trunk} | change | ({"start": other} if "start" in change else {})))


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_command_that_is_started_again_goes_on_where_it_was(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torchrun or SLURM, which repeat its arguments."""
    run, trunk = tmp_path / "run", save(tmp_path / "trunk", 30, {})
    early = save(run, 10, {})
    save(run, 20, {"seed_everything": 0, "model.rate": 0.1} | TRAINED)
    assert find(run, early) == Start(early, 10)
    name = {"TORCHELASTIC_RESTART_COUNT": "TORCHELASTIC_RUN_ID", "SLURM_RESTART_COUNT": "SLURM_JOB_ID"}[variable]
    monkeypatch.setenv(name, "7")
    monkeypatch.setenv(variable, "1")
    assert find(run, early) == Start(early, 10)  # before it had begun here
    with pytest.raises(InputError, match="already holds a run"):
        find(run, None, resume="never")
    launchers.remember(run)
    monkeypatch.setenv(name, "8")
    assert find(run, early) == Start(early, 10)  # another one had
    monkeypatch.setenv(name, "7")
    for count, expected in (("0", 10), ("1", 20)):
        monkeypatch.setenv(variable, count)
        assert find(run, early) == find(run, early, rate=0.3) == Start(at(run / "checkpoints", expected), expected)
    early.unlink()
    assert find(run, early) == Start(at(run / "checkpoints", 20), 20)
    assert find(run, None, resume="never") == Start(at(run / "checkpoints", 20), 20)
    assert find(tmp_path / "branch", trunk) == Start(trunk, 30)


def test_a_run_from_scratch_is_no_branch(tmp_path: Path) -> None:
    trunk = save(tmp_path / "trunk", 30, {})
    for settings in ({}, {"seed_everything": 0, "model.rate": 0.1} | TRAINED):
        save(tmp_path / "run", 35, settings)
        with pytest.raises(InputError, match=r"ckpt_path was None and is '.*step-00000030.ckpt'"):
            find(tmp_path / "run", trunk)


def test_checkpoints_that_lie_elsewhere_by_a_link_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "space")
    first, _ = save(tmp_path / "run", 30, {}), save(tmp_path / "run", 35, {})
    assert find(tmp_path / "run", first) == Start(first, 30)
    assert branch_point(tmp_path / "run", Start(first, 30)) is None


def test_the_commands_of_the_readme(terminal, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At smoke size. The same command again goes on with the branch, and so do its config.yaml and ``last``; each time
    its config.yaml says where it began, though only the trunk's folder was named.
    """
    trunk, branch = [
        line.replace("runs/quickstart", str(tmp_path / "run")).replace("step-00000400", "step-00000002").split()[3:]
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("python -m ifir_lightning fit --config configs/quickstart-trunk.yaml")
    ]
    saver = "{class_path: ifir_lightning.callbacks.checkpoints.Checkpoints, init_args: {keep_steps: [2]}}"
    smoke = [*QUICK[1:], "--trainer.val_check_interval=100", "--model.schedule.warmup_steps=1"]
    trunk += [*smoke, f"--trainer.callbacks=[{saver}]", f"--trainer.default_root_dir={tmp_path / 'run-trunk'}"]
    branch += [*smoke, "--model.schedule.decay_steps=1", "--trainer.max_steps=3"]
    terminal.runs(*trunk)
    assert f"the run is in {tmp_path}/run-trunk: p_mrr.png, metrics.csv, checkpoints, followir\n" in caplog.text
    start = at(tmp_path / "run-trunk" / "checkpoints", 2)
    branch[branch.index(str(start))] = str(tmp_path / "run-trunk")
    for later in start.parent.glob("step-00000004.*"):
        later.unlink()
    terminal.runs(*branch)
    assert f"continues after step 2 ({start.name})" in caplog.text
    own = at(tmp_path / "run-500" / "checkpoints", 3)
    assert manifests.verify(own).settings["ckpt_path"] == str(start)
    caplog.clear()
    terminal.runs(*branch)
    assert "continues after step 3 (step-00000003.ckpt)" in caplog.text
    caplog.clear()
    config = tmp_path / "run-500" / "config.yaml"
    terminal.runs("fit", f"--config={config}", "--trainer.max_steps=4")
    assert "continues after step 3 (step-00000003.ckpt)" in caplog.text
    terminal.runs("fit", f"--config={config}", "--trainer.max_steps=5", "--ckpt_path=last")
    assert f"ckpt_path: {start}\n" in config.read_text()
    newest = manifests.newest(own.parent)
    assert newest == at(own.parent, 5)
    for ckpt_path, said in (((), 1), (("--ckpt_path=last",), 0)):
        caplog.clear()
        terminal.runs("validate", f"--config={config}", *ckpt_path)
        assert caplog.text.count(f"run-500 holds a run, but this is {start}; its own: --ckpt_path best") == said
    assert manifests.verify(newest).settings["ckpt_path"] == str(start)

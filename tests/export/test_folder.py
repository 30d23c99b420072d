from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from graphclone.errors import OutputError
from graphclone.export.folder import new_file, new_folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An output of an earlier run."""
    (tmp_path / "child").mkdir()
    (tmp_path / "child" / "config.json").write_text("old")
    return tmp_path / "child"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_there_once_it_is_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "runs" / "child") as folder:
        (folder / "config.json").write_text("new")
        assert not (tmp_path / "runs" / "child").exists()
        assert folder.parent == tmp_path / "runs"
    assert (tmp_path / "runs" / "child" / "config.json").read_text() == "new"
    assert names(tmp_path / "runs") == ["child"]


def test_its_permissions_are_those_of_any_new_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with new_folder(tmp_path / "child"):
        pass
    assert (tmp_path / "child").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_existing_folder_is_refused(old: Path) -> None:
    with pytest.raises(OutputError) as caught, new_folder(old):
        pytest.fail("nothing is worked out for an output that cannot be written")
    assert str(caught.value).replace(str(old), "CHILD") == (
        "will not write 'CHILD'\n  because  it exists already\n  try      another name, or --overwrite (overwrite=True) to replace it"
    )
    assert (old / "config.json").read_text() == "old"


def test_overwriting_replaces_the_whole_folder(old: Path) -> None:
    with new_folder(old, overwrite=True) as folder:
        (folder / "model.safetensors").write_text("new")
        assert names(old) == ["config.json"]
    assert names(old) == ["model.safetensors"]
    assert names(old.parent) == ["child"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, failure: type[BaseException], overwrite: bool) -> None:
    if overwrite:
        (tmp_path / "child").mkdir()
        (tmp_path / "child" / "config.json").write_text("old")
    before = names(tmp_path)
    with pytest.raises(failure), new_folder(tmp_path / "child", overwrite) as folder:
        (folder / "config.json").write_text("half")
        raise failure
    assert names(tmp_path) == before
    assert not overwrite or (tmp_path / "child" / "config.json").read_text() == "old"


def test_a_rename_that_fails_restores_the_old_folder(old: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), new_folder(old, overwrite=True) as folder:
        folder.rename(folder.with_name("taken away"))
    assert (old / "config.json").read_text() == "old"
    assert names(old.parent) == ["child", "taken away"]


def test_a_folder_that_appears_meanwhile_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it came to exist while its contents were written"), new_folder(tmp_path / "child"):
        (tmp_path / "child").mkdir()
        (tmp_path / "child" / "config.json").write_text("of another run")
    assert names(tmp_path / "child") == ["config.json"]
    assert names(tmp_path) == ["child"]


def test_a_folder_of_other_things_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with (
        pytest.raises(OutputError, match="no folder that graphclone writes: 'thesis"),
        new_folder(tmp_path, True),
    ):
        pytest.fail("nothing is worked out for an output that cannot be written")
    assert names(tmp_path) == ["thesis.txt"]


def test_a_link_is_replaced_and_what_it_points_to_is_kept(old: Path) -> None:
    link = old.parent / "link"
    link.symlink_to(old)
    with new_folder(link, overwrite=True):
        pass
    assert not link.is_symlink()
    assert names(old) == ["config.json"]


@pytest.mark.parametrize("above", [0, 1])
def test_the_current_folder_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: int) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(OutputError, match="the current folder or your home lies in it"),
        new_folder([tmp_path, tmp_path.parent][above], overwrite=True),
    ):
        pass


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught, new_folder(tmp_path / "file" / "child"):
        pass
    assert str(caught.value).startswith(f"cannot write '{tmp_path / 'file' / 'child'}'\n  because  ")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no way to kill a process at once")
def test_a_kill_leaves_no_half_written_child(old: Path) -> None:
    program = """
        import os, signal, sys
        from pathlib import Path
        from graphclone.export.folder import new_folder
        with new_folder(Path(sys.argv[1]), overwrite=True) as folder:
            (folder / "config.json").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(old)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (old / "config.json").read_text() == "old"
    assert [name.split("-")[0] for name in names(old.parent)] == [".child.partial", "child"]


def test_a_file_keeps_its_suffix_while_it_is_written(tmp_path: Path) -> None:
    with new_file(tmp_path / "child.onnx") as path:
        path.write_text("new")
        assert path.suffix == ".onnx"
        assert names(tmp_path) == [path.name]
    assert names(tmp_path) == ["child.onnx"]


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    target.write_text("old")
    with pytest.raises(OutputError, match="it exists already"), new_file(target):
        pass
    with pytest.raises(ValueError, match="half way"), new_file(target, overwrite=True) as path:
        path.write_text("half")
        raise ValueError("half way")
    assert (names(tmp_path), target.read_text()) == (["plan.json"], "old")
    with new_file(target, overwrite=True) as path:
        path.write_text("new")
    assert (names(tmp_path), target.read_text()) == (["plan.json"], "new")


def test_a_file_does_not_replace_a_folder(old: Path) -> None:
    with pytest.raises(OutputError, match="a folder of that name exists"), new_file(old, overwrite=True):
        pass


def test_a_file_that_nobody_wrote(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nothing was written"), new_file(tmp_path / "plan.json"):
        pass


def test_files_have_the_modes_that_files_have_here(tmp_path: Path) -> None:
    with new_folder(tmp_path / "child") as folder:
        (folder / "weights").write_text("w")
        (folder / "weights").chmod(0o600)
    (tmp_path / "plain").write_text("p")
    assert (tmp_path / "child" / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode

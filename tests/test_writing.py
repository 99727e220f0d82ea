"""One process writes a folder; what a disk refuses is one error that names the path."""

import errno
import json
import multiprocessing
import os
import pathlib
import signal
import time

import pytest

from seqrec_tf import cli
from seqrec_tf.writing import LOCK_FILE, naming, only_writer, trouble, write_whole


def test_a_second_writer_is_refused_and_told_who_is_the_first(tmp_path):
    lock = tmp_path / LOCK_FILE
    with only_writer(lock, "the run"):
        expected = rf"the run is being written by another process \(process {os.getpid()} of .*, since 20.*\)\. Wait"
        with pytest.raises(FileExistsError, match=expected), only_writer(lock, "the run"):
            pytest.fail("there are two writers")
        assert lock.exists()  # it is still the first one's
    assert not lock.exists()
    with only_writer(lock, "the run"):
        pass


def _hold(lock):
    with only_writer(lock, "it"):
        time.sleep(60)


def test_a_killed_writer_leaves_no_lock_behind(tmp_path):
    lock = tmp_path / LOCK_FILE
    process = multiprocessing.get_context("fork").Process(target=_hold, args=[lock])
    process.start()
    deadline = time.monotonic() + 10
    while not (lock.exists() and lock.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(FileExistsError, match=f"process {process.pid} of"), only_writer(lock, "it"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert lock.exists()
    with only_writer(lock, "it"):
        pass
    assert not lock.exists()


def test_folders_that_were_made_for_nothing_are_removed(tmp_path):
    for inside in ((), ("kept",)):
        with only_writer(tmp_path / "runs" / "one" / LOCK_FILE, "it"):
            for name in inside:
                (tmp_path / "runs" / "one" / name).touch()
        assert (tmp_path / "runs").exists() == bool(inside)
    assert tmp_path.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_what_a_disk_refuses_names_the_path_whatever_library_says_it(tmp_path, number):
    for error in (OSError(number, os.strerror(number)), RuntimeError(f"/x/y; {os.strerror(number)}\n [op]")):
        with pytest.raises(OSError, match=os.strerror(number)) as caught, naming(tmp_path / "run"):
            raise error
        assert caught.value.filename == str(tmp_path / "run")
    with pytest.raises(OSError, match="the one") as caught, naming(tmp_path):
        raise OSError(number, os.strerror(number), "the one")
    assert caught.value.filename == "the one"  # which is known more exactly


def test_other_errors_are_no_trouble_of_a_disk():
    assert trouble(ValueError("wrong")) is None
    with pytest.raises(ValueError, match="wrong"), naming("run"):
        raise ValueError("wrong")


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 1), (errno.EFBIG, 1), (errno.EROFS, 2)])
def test_a_disk_that_refuses_has_one_status_and_one_sentence(monkeypatch, tmp_path, capsys, number, status):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number), str(tmp_path / "run"))

    monkeypatch.setattr("seqrec_tf.check.folders", fail)
    assert cli.main(["check", "shop"]) == status
    words = f"{tmp_path / 'run'} cannot be written: {os.strerror(number)}."
    assert capsys.readouterr().err.startswith(f"seqrec check: {words} ")


def test_a_text_file_that_cannot_be_written_leaves_nothing(monkeypatch, tmp_path):
    def fill(path, text, **kwargs):
        with pathlib.Path(path).open("w") as stream:
            stream.write(text[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "figures.json").write_text("before")
    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "write_text", fill)
        with pytest.raises(OSError, match="No space left") as caught:
            write_whole(tmp_path / "figures.json", json.dumps({"a": 1}))
    assert caught.value.filename == str(tmp_path / "figures.json")
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]
    assert (tmp_path / "figures.json").read_text() == "before"

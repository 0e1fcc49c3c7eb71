"""Exceptions in words."""

import errno
import os
import tempfile

import numpy as np
import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from sourcewise.core.errors import RunFailed, SourcewiseError
from sourcewise.core.messages import one_line, users_error


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError("libgomp.so.1: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
        Exception("Unknown error: Failed to launch worker thread: Resource temporarily unavailable"),  # Arrow's
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total capacity of 1 GiB"),
    ],
)
def test_want_of_memory_is_one_line(error: Exception) -> None:
    for chain in (error, raised(ValueError("in call to target"), error), raised(SourcewiseError("not whole"), error)):
        known = users_error(chain)
        assert isinstance(known, RunFailed)
        assert known.status == 1
        text = one_line(chain)
        assert text.startswith("memory does not suffice")
        assert "\n" not in text
        assert str(error).splitlines()[:1] == [] or str(error).splitlines()[0] in text


def test_an_array_that_is_too_large_is_one_line() -> None:
    with pytest.raises(MemoryError) as caught:
        np.zeros(10**17, np.uint8)
    assert "Unable to allocate" in one_line(caught.value)


def test_other_errors_are_none_of_memory() -> None:
    assert users_error(RuntimeError("shapes differ")) is None
    assert one_line(SourcewiseError("a process was killed (out of memory?)")) == "a process was killed (out of memory?)"
    assert users_error(ImportError("no module named x")) is None
    assert one_line(raised(SourcewiseError("what the user did"), OSError("gone"))) == "what the user did"


@pytest.mark.parametrize("config", [{"curate": None}, {"curate": {}}])
def test_a_setting_below_one_that_holds_none_is_a_whole_sentence(config: dict[str, object]) -> None:
    made = OmegaConf.create(config)
    OmegaConf.set_struct(made, True)
    with pytest.raises(ConfigAttributeError) as caught:
        OmegaConf.update(made, "curate.remove", 2)
    assert one_line(caught.value) == "curate.remove: there is no such setting; curate holds none"


def test_no_place_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [os.devnull])
    with pytest.raises(FileNotFoundError) as found:
        tempfile.gettempdir()
    assert one_line(found.value) == "no folder for temporary files can be written to; name one in TMPDIR"

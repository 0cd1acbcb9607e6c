"""Training states replace each other, and an adapter knows what it belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from promptbake.distill import checkpoints
from promptbake.distill.checkpoints import CHECKPOINT, read_adapter
from promptbake.errors import BakeError
from promptbake.types import Checkpoint

BASE: Any = SimpleNamespace(name="tiny", digest="digest-0")
CHECKPOINT_OF_TINY = Checkpoint("torch", "tiny", "digest-0", uri="")


class OneNumber:
    """A trainer whose state is one number."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    @property
    def state(self) -> dict[str, bytes]:
        return {"number": str(self.number).encode()}

    def load_state(self, folder: Path) -> None:
        self.number = int((folder / "number").read_text())


def put_record(folder: Path, record: object) -> Path:
    (folder / CHECKPOINT).write_text(json.dumps(record))
    return folder


def test_training_resumes_from_the_latest_state_and_the_earlier_ones_are_deleted(
    tmp_path: Path,
) -> None:
    for step in (5, 10, 100):
        checkpoints.save(tmp_path, step, OneNumber(number=step + 1).state)
        assert [path.name for path in tmp_path.iterdir()] == [f"step-{step:06}"]
    trainer = OneNumber()
    assert checkpoints.restore(tmp_path, trainer, [].append) == 100
    assert trainer.number == 101


def test_a_kill_before_the_earlier_state_was_deleted_does_no_harm(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "other", 95, OneNumber(96).state)
    checkpoints.save(tmp_path, 100, OneNumber(101).state)
    (tmp_path / "other" / "step-000095").rename(tmp_path / "step-000095")
    trainer = OneNumber()
    assert checkpoints.restore(tmp_path, trainer, [].append) == 100
    assert trainer.number == 101


def test_without_a_state_training_begins_at_step_0(tmp_path: Path) -> None:
    trainer = OneNumber(7)
    assert checkpoints.restore(tmp_path / "none", trainer, [].append) == 0
    assert trainer.number == 7


def test_a_state_that_could_not_be_written_whole_is_none(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 5, OneNumber(6).state)
    broken = OneNumber(11)
    unwritable = "n" * 300  # no file system takes so long a name
    with pytest.raises(OSError, match="name too long"):
        checkpoints.save(tmp_path, 10, broken.state | {unwritable: b""})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000005"]
    assert checkpoints.restore(tmp_path, broken, [].append) == 5
    assert broken.number == 6


def test_a_state_may_be_saved_again(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 5, OneNumber(1).state)
    checkpoints.save(tmp_path, 5, OneNumber(2).state)
    trainer = OneNumber()
    assert checkpoints.restore(tmp_path, trainer, [].append) == 5
    assert trainer.number == 2


@pytest.mark.parametrize("name", ["number", "sha256.json"])
@pytest.mark.parametrize("damage", [lambda _: b"", lambda content: content[:-1] + b"~", None])
def test_a_damaged_state_is_named_and_not_resumed_from(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None
) -> None:
    checkpoints.save(tmp_path / "other", 5, OneNumber(6).state)
    checkpoints.save(tmp_path, 10, OneNumber(11).state)
    (tmp_path / "other" / "step-000005").rename(tmp_path / "step-000005")
    file = tmp_path / "step-000010" / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    trainer, said = OneNumber(), list[str]()
    assert checkpoints.restore(tmp_path, trainer, said.append) == 5
    assert trainer.number == 6
    assert [line.partition(" (")[0] for line in said] == [f"bake: {file.parent} is damaged"]
    assert not file.parent.exists()


@pytest.mark.parametrize("uri", ["/home/me/.ssh", "../..", "org/adapter", "file:///etc"])
def test_an_address_that_leads_elsewhere_on_this_machine_is_not_followed(
    tmp_path: Path, uri: str
) -> None:
    put_record(tmp_path, asdict(CHECKPOINT_OF_TINY) | {"uri": uri})
    with pytest.raises(BakeError, match="leads out of the folder, and is not followed"):
        read_adapter(tmp_path, "torch", BASE)


def test_links_in_an_adapters_folder_are_not_followed(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    put_record(adapter, asdict(CHECKPOINT_OF_TINY))
    (adapter / "adapter_model.safetensors").symlink_to(tmp_path / "private key")
    with pytest.raises(BakeError, match=r"safetensors: is a symbolic link"):
        read_adapter(adapter, "torch", BASE)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(BakeError, match="link: is a symbolic link"):
        read_adapter(tmp_path / "link", "torch", BASE)


@pytest.mark.parametrize("uri", ["", "remote://weights/7"])
def test_an_adapters_address_is_its_folder_or_its_own(tmp_path: Path, uri: str) -> None:
    put_record(tmp_path, asdict(CHECKPOINT_OF_TINY) | {"uri": uri})
    checkpoint = read_adapter(tmp_path, "torch", BASE)
    assert checkpoint == Checkpoint("torch", "tiny", "digest-0", uri or str(tmp_path))


def test_a_moved_adapter_is_found_where_it_is_now(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    put_record(tmp_path / "before", asdict(CHECKPOINT_OF_TINY))
    after = (tmp_path / "before").rename(tmp_path / "after")
    assert read_adapter(after, "torch", BASE).uri == str(after)


def test_an_adapter_that_is_baked_again_in_its_place_is_another(tmp_path: Path) -> None:
    adapter = Checkpoint("mock", "tiny", "tiny-0", str(tmp_path))
    digests = []
    for weights in ("one", "other", "one"):
        (tmp_path / "adapter_model.safetensors").write_text(weights)
        digests.append(checkpoints.identity(adapter))
    assert digests[0] == digests[2] != digests[1]
    address = Checkpoint("tinker", "tiny", "tiny-0", "tinker://run/weights/baked")
    assert checkpoints.identity(address) == address.uri

"""Two folders and a real hub: whatever is done to either, both end the same and nothing written is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.folder.files import CHUNK_BYTES, INLINE_BYTES, MARKER, DiskFile, chunked_value, inline_value
from hub.folder.sync import CHUNKS, FILES
from hub.running import RunningHub
from tests.folder_rig import Device, Terminal, same, serving, signed_in, until

PROSE = "".join(f"line {n}\n" for n in range(30))


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[tuple[RunningHub, Terminal]]:
    async with serving(tmp_path) as served:
        yield served


@pytest.fixture
async def pair(tmp_path: Path, hub: tuple[RunningHub, Terminal]) -> list[Device]:
    return await signed_in(tmp_path, *hub, "attic", "cellar")


async def test_files_of_every_kind_arrive_live(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("before.txt", "was there")
    async with attic.syncing(), cellar.syncing():
        attic.write("notes/deep/er/a.txt", "hello")
        attic.write("empty", b"")
        attic.write("ö ü/ß.bin", bytes(range(256)))
        attic.write("run", "#!/bin/sh\n")
        (attic.root / "run").chmod(0o755)
        attic.write("inline", b"i" * INLINE_BYTES)
        attic.write("chunked", b"c" * (INLINE_BYTES + 1))
        await until(lambda: len(cellar.tree()) == 7)
        tree = await same(attic, cellar)
        assert tree["chunked"] == b"c" * (INLINE_BYTES + 1)
        await until(lambda: bool((cellar.root / "run").stat().st_mode & 0o100))
        assert not (cellar.root / "before.txt").stat().st_mode & 0o100


async def test_edits_renames_and_deletions_follow(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("a/b.txt", "one")
    attic.write("a/c.txt", "stays")
    attic.write("d/e/f.txt", "goes")
    async with attic.syncing(), cellar.syncing():
        await until(lambda: len(cellar.tree()) == 3)
        cellar.write("a/b.txt", "two")
        (cellar.root / "a/c.txt").rename(cellar.root / "moved.txt")
        (cellar.root / "d/e/f.txt").unlink()
        await until(lambda: attic.tree() == {"a/b.txt": b"two", "moved.txt": b"stays"})
        assert not (attic.root / "d").exists(), "a folder whose last file was deleted elsewhere goes too"
        (attic.root / "a").rename(attic.root / "z")
        await until(lambda: cellar.tree() == {"z/b.txt": b"two", "moved.txt": b"stays"})


async def test_what_was_done_while_a_folder_was_not_synced_is_found(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("keep", "1")
    attic.write("edit", "1")
    attic.write("delete", "1")
    async with attic.syncing(), cellar.syncing():
        await until(lambda: len(cellar.tree()) == 3)
    attic.write("edit", "2")
    (attic.root / "delete").unlink()
    attic.write("new", "1")
    async with attic.syncing(), cellar.syncing():
        await until(lambda: cellar.tree() == {"keep": b"1", "edit": b"2", "new": b"1"})


async def test_offline_edits_of_one_text_are_merged(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("prose.md", PROSE)
    async with attic.syncing(), cellar.syncing():
        await until(lambda: "prose.md" in cellar.tree())
    attic.write("prose.md", PROSE.replace("line 3\n", "line 3 from the attic\n"))
    cellar.write("prose.md", PROSE.replace("line 20\n", "line 20 from the cellar\n"))
    async with attic.syncing(), cellar.syncing():
        both = PROSE.replace("line 3\n", "line 3 from the attic\n").replace("line 20\n", "line 20 from the cellar\n")
        await until(lambda: attic.tree() == cellar.tree() == {"prose.md": both.encode()})


async def test_offline_edits_that_do_not_merge_are_both_kept(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("a/same.txt", "base\n")
    attic.write("picture", b"\0base")
    attic.write("large", b"b" * 200_000)
    async with attic.syncing(), cellar.syncing():
        await until(lambda: len(cellar.tree()) == 3)
    for device in (attic, cellar):
        device.write("a/same.txt", f"{device.name}\n")
        device.write("picture", b"\0" + device.name.encode())
        device.write("large", device.name.encode() * 40_000)
    async with attic.syncing(), cellar.syncing():
        await until(lambda: len(attic.tree()) == len(cellar.tree()) == 6)
        tree = await same(attic, cellar)
    for path, ending in (("a/same", ".txt"), ("picture", ""), ("large", "")):
        versions = [content for name, content in tree.items() if name.startswith(path)]
        assert {b"attic" in v for v in versions} == {True, False} and len(versions) == 2
        assert path + ending in tree
        assert any("(conflict " in name for name in tree if name.startswith(path))


async def test_an_edit_here_meets_a_record_that_came_while_the_folder_was_not_synced(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("prose.md", PROSE)
    attic.write("picture", b"\0base")
    attic.write("run", "x")
    async with attic.syncing(), cellar.syncing():
        await until(lambda: len(cellar.tree()) == 3)
    attic.write("prose.md", PROSE.replace("line 3\n", "line 3 from the attic\n"))
    attic.write("picture", b"\0attic")
    (attic.root / "run").chmod(0o755)
    await attic.once()
    # The cellar's client learns of it through another command, and its folder does not.
    assert await cellar.command("history", "prose.md") == 0
    assert cellar.read("prose.md") == PROSE.encode()
    cellar.write("prose.md", PROSE.replace("line 20\n", "line 20 from the cellar\n"))
    cellar.write("picture", b"\0cellar")
    cellar.write("run", "y")
    async with cellar.syncing(online=False) as there:
        both = PROSE.replace("line 3\n", "line 3 from the attic\n").replace("line 20\n", "line 20 from the cellar\n")
        await until(lambda: cellar.read("prose.md") == both.encode())
        await until(lambda: len(cellar.tree()) == 4)
        assert cellar.read("picture") == b"\0attic"
        (copy,) = [path for path in cellar.tree() if path.startswith("picture (conflict cellar ")]
        assert cellar.read(copy) == b"\0cellar"
        assert any("both kept: picture and" in line for line in there.lines)
        await until(lambda: bool((cellar.root / "run").stat().st_mode & 0o100))
        assert cellar.read("run") == b"y"
    async with attic.syncing(), cellar.syncing():
        await until(lambda: len(attic.tree()) == 4)
        assert await same(attic, cellar) == cellar.tree()
        assert attic.read("prose.md") == both.encode() and attic.read("run") == b"y"


async def test_an_edit_survives_a_deletion_either_way(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("one", "1")
    attic.write("two", "2")
    async with attic.syncing(), cellar.syncing():
        await until(lambda: len(cellar.tree()) == 2)
    (attic.root / "one").unlink()
    cellar.write("one", "edited")
    attic.write("two", "edited")
    (cellar.root / "two").unlink()
    async with attic.syncing(), cellar.syncing():
        await until(lambda: attic.tree() == cellar.tree() == {"one": b"edited", "two": b"edited"})


async def test_two_folders_that_were_full_already_become_one(pair: list[Device]) -> None:
    attic, cellar = pair
    for device in pair:
        device.write("same", "same")
        device.write(f"only-{device.name}", device.name)
        device.write("differs", device.name)
    async with attic.syncing(), cellar.syncing():
        await until(lambda: len(attic.tree()) == len(cellar.tree()) == 5)
        tree = await same(attic, cellar)
    assert {c for p, c in tree.items() if p.startswith("differs")} == {b"attic", b"cellar"}


async def test_edits_at_the_same_moment_are_not_lost(pair: list[Device]) -> None:
    attic, cellar = pair
    async with attic.syncing(), cellar.syncing():
        for n in range(5):
            attic.write("hot", f"attic {n}")
            cellar.write("hot", f"cellar {n}")
            await asyncio.sleep(0.01 * n)
        await until(lambda: attic.tree() == cellar.tree() and {b"attic 4", b"cellar 4"} <= set(attic.tree().values()))


async def test_a_large_file_comes_in_chunks_and_its_old_chunks_go(pair: list[Device]) -> None:
    attic, cellar = pair
    first, second = bytes(range(256)) * 12_288, bytes(reversed(range(256))) * 12_288
    attic.write("film", first)
    async with attic.syncing() as here, cellar.syncing() as there:
        await until(lambda: cellar.tree() == {"film": first})
        assert len(here.client.collection(CHUNKS).keys()) == len(first) // CHUNK_BYTES == 24
        cellar.write("film", second)
        await until(lambda: attic.tree() == {"film": second})
        await until(lambda: len(here.client.collection(CHUNKS).keys()) == 24)
        (attic.root / "film").unlink()
        await until(lambda: cellar.tree() == {})
        await until(lambda: there.client.collection(CHUNKS).keys() == [])


async def test_a_record_whose_chunks_have_not_come_waits(pair: list[Device]) -> None:
    attic, cellar = pair
    content = b"w" * 300_000
    attic.write("film", content)
    async with attic.syncing() as here, cellar.syncing() as there:
        await until(lambda: cellar.tree() == {"film": content})
        files, chunks = here.client.collection(FILES), here.client.collection(CHUNKS)
        value = {**files.get("film", None), "v": "ab" * 16}
        files.put("copy", value)
        await until(lambda: there.sync.waiting == 1)
        assert "copy" not in cellar.tree()
        for n in range(3):
            chunks.put(f"{'ab' * 16}/{n}", content[n * CHUNK_BYTES : (n + 1) * CHUNK_BYTES])
        await until(lambda: cellar.tree().get("copy") == content)
        assert there.sync.waiting == 0


async def test_nobody_is_in_step_while_a_file_waits_for_its_chunks(pair: list[Device]) -> None:
    attic, cellar = pair
    async with attic.syncing() as here:
        value = chunked_value(bytes(32), 300_000, False, "ab" * 16)
        await here.client.when_appended(here.client.collection(FILES).put("film", value))
    async with cellar.opened() as (client, sync, _):
        await client.start()
        with pytest.raises(TimeoutError):
            await sync.in_step(1.0)
        assert sync.waiting == 1


async def test_a_change_that_comes_while_a_file_is_read_is_not_overwritten(
    pair: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    attic, _ = pair
    attic.write("a", "base\n")
    await attic.once()
    attic.write("a", "mine\n")
    async with attic.opened() as (client, sync, _):
        loop, read = asyncio.get_running_loop(), sync._disk.read
        theirs = [inline_value(b"theirs\n", False)]

        def read_while_it_comes(path: str, bytes_max: int) -> tuple[bytes | None, DiskFile]:
            found = read(path, bytes_max)
            if theirs:
                value = theirs.pop()
                put = asyncio.to_thread(loop.call_soon_threadsafe, client.collection(FILES).put, "a", value)
                asyncio.run_coroutine_threadsafe(put, loop).result()
            return found

        monkeypatch.setattr(sync._disk, "read", read_while_it_comes)
        await sync.settle()
        assert not theirs
        assert attic.read("a") == b"theirs\n"
        assert set(attic.tree().values()) == {b"mine\n", b"theirs\n"}


async def test_a_record_with_a_path_outside_touches_nothing(pair: list[Device], tmp_path: Path) -> None:
    attic, cellar = pair
    outside = tmp_path / "outside"
    outside.mkdir()
    (cellar.root / "link").symlink_to(outside)
    async with attic.syncing() as here, cellar.syncing() as there:
        files = here.client.collection(FILES)
        bad = ["../outside/x", f"{outside}/x", "a/../../outside/x", MARKER, "link/x", "nul\0"[:3] + "/../../x"]
        for path in bad:
            files.put(path, inline_value(b"evil", False))
        files.put("half", {"h": bytes(32), "n": 4, "x": False, "c": b"evil"})
        files.put("good", inline_value(b"good", False))
        await until(lambda: cellar.tree() == {"good": b"good"})
        await until(lambda: sum("cannot be used" in line or "Not synced" in line for line in there.lines) >= 6)
        assert list(outside.iterdir()) == []
        assert (cellar.root / MARKER).read_text().strip() != "evil"


async def test_a_record_of_a_later_program_takes_no_file_away(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("a", "1")
    async with attic.syncing() as here, cellar.syncing() as there:
        await until(lambda: cellar.tree() == {"a": b"1"})
        here.client.collection(FILES).put("a", {"format": 2})
        await until(lambda: any("cannot be used" in line for line in there.lines))
        attic.write("b", "2")
        await until(lambda: "b" in cellar.tree())
        assert attic.read("a") == cellar.read("a") == b"1"


async def test_links_and_files_that_are_too_large_are_told_and_left_alone(pair: list[Device]) -> None:
    attic, cellar = pair
    (attic.root / "link").symlink_to("/etc/hostname")
    with (attic.root / "huge").open("wb") as file:
        file.truncate(100 * 1_048_576 + 1)
    attic.write("small", "s")
    async with attic.syncing() as here, cellar.syncing():
        await until(lambda: cellar.tree() == {"small": b"s"})
        assert "Not synced: link (symbolic links are not synced)" in here.lines
        assert "Not synced: huge (larger than 104,857,600 bytes)" in here.lines
        # A file that is replaced by a link is not deleted elsewhere.
        (attic.root / "small").unlink()
        (attic.root / "small").symlink_to("huge")
        attic.write("after", "a")
        await until(lambda: "after" in cellar.tree())
        assert cellar.tree() == {"small": b"s", "after": b"a"}


async def test_a_folder_and_a_file_of_one_name_both_stay(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("name", "file")
    cellar.write("name/inside", "folder")
    async with attic.syncing(), cellar.syncing():
        await until(lambda: len(attic.tree()) == 2 and attic.tree() == cellar.tree())
        tree = attic.tree()
        assert tree.pop("name/inside") == b"folder"
        ((path, content),) = tree.items()
        assert path.startswith("name (file ") and content == b"file"


@pytest.mark.parametrize("size", [4, 200_000])
async def test_a_folder_keeps_its_name_when_a_file_of_it_comes(pair: list[Device], size: int) -> None:
    attic, cellar = pair
    attic.write("name", b"f" * size)
    await attic.once()
    cellar.write("name/inside", "folder")
    await cellar.once()
    tree = cellar.tree()
    assert tree.pop("name/inside") == b"folder"
    ((path, content),) = tree.items()
    assert path.startswith("name (file ") and content == b"f" * size
    async with attic.syncing(), cellar.syncing():
        await until(lambda: len(attic.tree()) == 2)
        assert path in await same(attic, cellar)


async def test_a_file_that_becomes_a_folder_and_back(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("name", "file")
    async with attic.syncing(), cellar.syncing():
        await until(lambda: cellar.tree() == {"name": b"file"})
        (attic.root / "name").unlink()
        attic.write("name/inside", "folder")
        await until(lambda: cellar.tree() == {"name/inside": b"folder"})
        (cellar.root / "name/inside").unlink()
        (cellar.root / "name").rmdir()
        cellar.write("name", "again")
        await until(lambda: attic.tree() == {"name": b"again"})


async def test_an_unmounted_folder_deletes_nothing(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("a", "1")
    async with cellar.syncing():
        async with attic.syncing():
            await until(lambda: cellar.tree() == {"a": b"1"})
        # The disk is away; its mount point is an empty folder.
        away = attic.root.rename(attic.root.with_name("away"))
        attic.root.mkdir()
        async with attic.syncing():
            await until(lambda: attic.tree() == {"a": b"1"})
        assert cellar.tree() == {"a": b"1"}
        assert (away / "a").exists()


async def test_a_folder_that_goes_away_while_it_is_synced_stops_the_sync(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("a", "1")
    async with cellar.syncing():
        with pytest.raises(Exception, match="mounted"):
            async with attic.syncing() as here:
                await until(lambda: cellar.tree() == {"a": b"1"})
                (attic.root / MARKER).unlink()
                (attic.root / "a").unlink()
                await until(here.running.done)
        assert cellar.tree() == {"a": b"1"}


async def test_the_executable_bit_travels_alone(pair: list[Device]) -> None:
    attic, cellar = pair
    attic.write("run", "x")
    async with attic.syncing(), cellar.syncing():
        await until(lambda: "run" in cellar.tree())
        (attic.root / "run").chmod(0o755)
        await until(lambda: bool((cellar.root / "run").stat().st_mode & 0o100))
        (cellar.root / "run").chmod(0o644)
        await until(lambda: not (attic.root / "run").stat().st_mode & 0o100)


async def test_a_folder_is_taken_up_where_it_was_left(pair: list[Device]) -> None:
    attic, cellar = pair
    for n in range(40):
        attic.write(f"many/{n}", f"content {n}")
    async with attic.syncing() as here, cellar.syncing():
        await until(lambda: len(cellar.tree()) == 40)
        await here.client.synced(10)
        appended = here.client.status.unsynced
    assert appended == 0
    async with attic.syncing() as here:
        await here.client.synced(10)
        await here.sync.settle()
        assert here.client.status.unsynced == 0, "nothing changed, so nothing is sent"

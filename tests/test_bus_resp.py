"""What a Redis server says is taken apart the same way however its bytes are cut, and nothing else is taken for it."""

from __future__ import annotations

import pytest

from hub.bus.resp import DEPTH_MAX, ITEM_BYTES_MAX, Answers, Failure, Message, NotRedis, Push

NAME = b"hub:" + bytes(range(48, 58)) * 3 + b"ab"


def text(body: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(body), body)


def message(body: bytes, *, channel: bytes = NAME, word: bytes = b"message") -> bytes:
    return b">3\r\n" + text(word) + text(channel) + text(body)


SAID = {
    message(b"parcel"): Message(NAME, b"parcel"),
    message(b""): Message(NAME, b""),
    message(b"\r\n$-1\r\n:1\r\n" * 3): Message(NAME, b"\r\n$-1\r\n:1\r\n" * 3),
    message(b"parcel", word=b"smessage"): Message(NAME, b"parcel"),
    message(b"parcel", channel=b"short"): Message(b"short", b"parcel"),
    b":3\r\n": 3,
    b":-12\r\n": -12,
    b"+PONG\r\n": b"PONG",
    b"$4\r\nPONG\r\n": b"PONG",
    b"$-1\r\n": None,
    b"_\r\n": None,
    b"-NOPERM no\r\n": Failure("NOPERM no"),
    b"!9\r\nMOVED 1 a\r\n": Failure("MOVED 1 a"),
    b">3\r\n$9\r\nsubscribe\r\n" + text(NAME) + b":1\r\n": Push([b"subscribe", NAME, 1]),
    b">2\r\n+invalidate\r\n_\r\n": Push([b"invalidate", None]),
    b"*2\r\n:1\r\n*1\r\n#t\r\n": [1, [b"t"]],
    b"*0\r\n": [],
    b"%1\r\n+key\r\n,1.5\r\n": [b"key", b"1.5"],
    b"|1\r\n+ttl\r\n:9\r\n:5\r\n": 5,
}


def test_every_answer_is_understood() -> None:
    for said, meant in SAID.items():
        assert Answers().feed(said) == [meant], said


def test_many_at_once_come_out_in_their_order() -> None:
    assert Answers().feed(b"".join(SAID)) == list(SAID.values())


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 50])
def test_it_does_not_matter_where_the_bytes_are_cut(piece: int) -> None:
    said, answers, heard = b"".join(SAID), Answers(), []
    for start in range(0, len(said), piece):
        heard += answers.feed(said[start : start + piece])
    assert heard == list(SAID.values())


@pytest.mark.parametrize(
    "bad",
    [
        b"hello\r\n",
        b":many\r\n",
        b"$-2\r\n",
        b"$3\r\nfour\r\n",
        b"$%d\r\n" % (ITEM_BYTES_MAX + 1),
        b"*%d\r\n" % (ITEM_BYTES_MAX + 1),
        b"*1\r\n" * (DEPTH_MAX + 2) + b":1\r\n",
        message(b"parcel").replace(b"$6", b"$5"),
        message(b"parcel").replace(b"$6", b"$-7"),
        message(b"parcel").replace(b"$36", b"$35"),
    ],
)
def test_what_no_server_says_is_refused(bad: bytes) -> None:
    with pytest.raises(NotRedis):
        Answers().feed(b":1\r\n" + bad)


def test_lists_may_be_as_deep_as_the_bound() -> None:
    (heard,) = Answers().feed(b"*1\r\n" * (DEPTH_MAX + 1) + b":1\r\n")
    for _ in range(DEPTH_MAX + 1):
        (heard,) = heard
    assert heard == 1


def test_an_answer_without_end_is_refused() -> None:
    answers = Answers()
    assert answers.feed(b"+" + b"x" * (ITEM_BYTES_MAX - 1)) == []
    with pytest.raises(NotRedis):
        answers.feed(b"x")

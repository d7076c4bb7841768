"""Tensor files made to mislead: refused, and never read otherwise than the public reader does."""

import json
import random
import struct
from contextlib import suppress

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors import numpy as public

from hermes.checkpoint import TensorFile
from hermes.errors import CheckpointError
from hermes.storage.safetensors import describe_tensors, encode_tensors
from tests.checkpoint.support import equal_tensors, write_tensors


def packed(header, data, *, length=None):
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape="[2]", start=0, end=8, dtype='"F32"', more=""):
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":[{start},{end}]{more}}}'


def objects(*entries):
    return (
        "{" + ",".join(f'"{name}":{one}' for name, one in zip("abc", entries, strict=False)) + "}"
    )


EIGHT, SIXTEEN = bytes(8), bytes(16)
HOSTILE = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "no header": packed("", b""),
    "a list": packed("[]", b""),
    "a number": packed("1", b""),
    "space before": packed(f' {{"a":{entry()}}}', EIGHT),
    "newline after": packed(f'{{"a":{entry()}}}\n', EIGHT),
    "not closed": packed(f'{{"a":{entry()}', EIGHT),
    "two objects": packed(f'{{"a":{entry()}}}{{}}', EIGHT),
    "not UTF-8": packed(b'{"\xff":1}', b""),
    "half a pair": packed('{"__metadata__":{"a":"\\ud800"}}', b""),
    "control in a string": packed('{"__metadata__":{"a":"\n"}}', b""),
    "trailing comma": packed(f'{{"a":{entry()},}}', EIGHT),
    "comment": packed(f'{{"a":{entry()}/**/}}', EIGHT),
    "header beyond the file": packed("{}", b"", length=3),
    "header of 2^63": packed("{}", b"", length=2**63),
    "header of 2^64 - 1": packed("{}", b"", length=2**64 - 1),
    "header over 16 MiB": packed("{" + " " * 2**24 + "}", b""),
    "hole at the start": packed(objects(entry(start=8, end=16)), SIXTEEN),
    "hole between": packed(f'{{"a":{entry()},"b":{entry(start=12, end=20)}}}', bytes(20)),
    "overlap": packed(f'{{"a":{entry()},"b":{entry(start=4, end=12)}}}', bytes(12)),
    "same range": packed(f'{{"a":{entry()},"b":{entry()}}}', EIGHT),
    "trailing bytes": packed(objects(entry()), bytes(9)),
    "truncated": packed(objects(entry()), bytes(7)),
    "backwards": packed(objects(entry(start=8, end=0)), EIGHT),
    "key twice": packed(f'{{"a":{entry()},"a":{entry()}}}', EIGHT),
    "key twice by an escape": packed(f'{{"a":{entry()},"\\u0061":{entry()}}}', EIGHT),
    "field twice": packed(objects(entry(more=',"dtype":"F32"')), EIGHT),
    "field too many": packed(objects(entry(more=',"x":1')), EIGHT),
    "field missing": packed('{"a":{"dtype":"F32","shape":[2]}}', EIGHT),
    "entry a list": packed('{"a":[]}', b""),
    "float shape": packed(objects(entry(shape="[2.0]")), EIGHT),
    "exponent": packed(objects(entry(shape="[2e0]")), EIGHT),
    "negative shape": packed(objects(entry(shape="[-2]")), EIGHT),
    "two negatives": packed(objects(entry(shape="[-1,-2]")), EIGHT),
    "minus zero": packed(objects(entry(shape="[-0]", end=0)), b""),
    "bool in shape": packed(objects(entry(shape="[true,2]")), EIGHT),
    "string in shape": packed(objects(entry(shape=chr(34) + "2" + chr(34))), EIGHT),
    "null shape": packed(objects(entry(shape="null")), EIGHT),
    "product of 2^64 + 2": packed(objects(entry(shape="[4294967296,4294967296,2]")), EIGHT),
    "huge number": packed(objects(entry(shape="[" + "9" * 5000 + "]")), EIGHT),
    "seventeen dimensions": packed(objects(entry(shape="[" + "1," * 16 + "2]")), EIGHT),
    "nothing, of 2^62 rows": packed(objects(entry(shape="[0,4611686018427387904]", end=0)), b""),
    "NaN": packed(objects(entry(shape="[NaN]")), EIGHT),
    "offset a float": packed(objects(entry(end="8.0")), EIGHT),
    "three offsets": packed('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}', EIGHT),
    "wrong size": packed(objects(entry(shape="[3]")), EIGHT),
    "unknown dtype": packed(objects(entry(dtype=chr(34) + "F31" + chr(34))), EIGHT),
    "dtype a number": packed(objects(entry(dtype="5")), EIGHT),
    "dtype a list": packed(objects(entry(dtype="[]")), EIGHT),
    "name empty": packed(f'{{"":{entry()}}}', EIGHT),
    "name with a slash": packed(f'{{"a/b":{entry()}}}', EIGHT),
    "name with a newline": packed(f'{{"a\\n":{entry()}}}', EIGHT),
    "name too long": packed(f'{{"{"a" * 257}":{entry()}}}', EIGHT),
    "metadata a number": packed('{"__metadata__":{"a":1}}', b""),
    "metadata nested": packed('{"__metadata__":{"a":{}}}', b""),
    "deep": packed('{"a":' + "[" * 200_000 + "]" * 200_000 + "}", b""),
    "a zip": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x04\x95" + bytes(100),
    "a GGUF": b"GGUF\x03\x00\x00\x00" + bytes(100),
}


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        TensorFile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused(tmp_path, name):
    (tmp_path / "f").write_bytes(HOSTILE[name])
    refused(tmp_path / "f")


def every_hostile_header_is_refused(folder):
    for data in HOSTILE.values():
        (folder / "f").write_bytes(data)
        refused(folder / "f")


def test_a_bool_that_is_neither_is_refused(tmp_path):
    header = '{"a":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "f").write_bytes(packed(header, b"\x01\x02"))
    with pytest.raises(CheckpointError, match="tensor 'a' has a BOOL above 1"):
        TensorFile(tmp_path / "f")["a"]


def test_too_many_tensors_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hermes.storage.safetensors.MAX_TENSORS", 3)
    tensors = {f"x{i}": np.zeros(1, np.float32) for i in range(4)}
    write_tensors(tmp_path / "f", tensors)
    with pytest.raises(CheckpointError, match="has more than 3 tensors"):
        TensorFile(tmp_path / "f")


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*nowhere: no such file"):
        TensorFile(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"cannot read .*: it is not a file"):
        TensorFile(tmp_path)


def test_a_large_header_is_read_where_it_is_asked_for(tmp_path):
    (tmp_path / "f").write_bytes(HOSTILE["header over 16 MiB"])
    assert len(TensorFile(tmp_path / "f", max_header=2**25)) == 0


def header_of(tensors):
    return next(iter(encode_tensors(tensors, describe_tensors(tensors))))[8:].tobytes().rstrip(b" ")


def mutated(header, chance):
    """The header with one small thing changed: a byte, a number, a span doubled or cut out."""
    data = bytearray(header)
    at, other = sorted((chance.randrange(len(data)), chance.randrange(len(data))))
    match chance.randrange(6):
        case 0:
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            data[at] = chance.choice(b'{}[]":,0123456789-+.eE tfn\\')
        case 2:
            del data[at : at + chance.randrange(1, 12)]
        case 3:
            data[at:at] = data[at : min(other, at + 40)]
        case 4:
            words = [b"null", b"true", b"-1", b"0", b"1e2", b"2.0", b"18446744073709551616", b'""']
            data[at : at + 1] = chance.choice(words)
        case 5:
            body = json.loads(header)
            name = chance.choice([n for n in body if n != "__metadata__"])
            field = chance.choice(["shape", "data_offsets"])
            numbers = body[name][field]
            numbers[chance.randrange(len(numbers))] += chance.choice([-8, -4, -1, 1, 4, 8, 2**62])
            data = bytearray(json.dumps(body).encode())
    return bytes(data)


def agree_with_the_public_reader(path, count, seed):
    """We accept nothing that it rejects; where both accept, the tensors are equal."""
    tensors = {name: np.arange(6, dtype=np.float32).reshape(2, 3) for name in ("a", "b.c", "d")}
    header = header_of(tensors)
    data = b"".join(tensor.tobytes() for tensor in tensors.values())
    chance = random.Random(seed)
    accepted = 0
    for _ in range(count):
        changed = header
        for _ in range(chance.choice([1, 1, 2])):
            # An earlier change may have left nothing to change this way.
            with suppress(ValueError, LookupError, TypeError, AttributeError):
                changed = mutated(changed, chance)
        path.write_bytes(packed(changed, data))
        try:
            ours = dict(TensorFile(path))
        except CheckpointError:
            continue
        accepted += 1
        try:
            theirs = public.load_file(path)
        except SafetensorError as error:
            raise AssertionError(f"accepted alone: {changed!r}: {error}") from error
        equal_tensors(ours, theirs)
    assert accepted > count // 100, "some changes are harmless, or the test shows nothing"


def test_mutated_headers_get_the_public_readers_verdict(tmp_path):
    agree_with_the_public_reader(tmp_path / "f", 400, seed="mutations")


@pytest.mark.long
def test_many_mutated_headers_get_the_public_readers_verdict(tmp_path):
    agree_with_the_public_reader(tmp_path / "f", 20_000, seed="more mutations")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_the_public_reader_refuses_is_refused(tmp_path, name):
    """Where it is laxer than we are, the list above already says why."""
    (tmp_path / "f").write_bytes(HOSTILE[name])
    try:
        public.load_file(tmp_path / "f")
    except Exception:
        refused(tmp_path / "f")


def test_truncation_at_every_byte_of_the_header_and_some_of_the_data_is_seen(tmp_path):
    tensors = {"a": np.ones((16, 16), np.float32)}
    data = write_tensors(tmp_path / "f", tensors).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for size in [*range(start), *random.Random("cuts").sample(range(start, len(data)), 200)]:
        (tmp_path / "f").write_bytes(data[:size])
        refused(tmp_path / "f")


def test_metadata_that_is_null_is_none(tmp_path):
    """The safetensors library reads it, too."""
    (tmp_path / "x").write_bytes(packed('{"__metadata__":null}', b""))
    assert TensorFile(tmp_path / "x").metadata == {}


def test_sizes_of_zero_are_read_and_one_that_numpy_cannot_count_is_refused(tmp_path):
    head = '{"a":{"dtype":"F32","shape":[0,%d],"data_offsets":[0,0]}}'
    (tmp_path / "x").write_bytes(packed(head % 7, b""))
    assert TensorFile(tmp_path / "x")["a"].shape == (0, 7)
    (tmp_path / "y").write_bytes(packed(head % 2**62, b""))
    with pytest.raises(CheckpointError, match=r"'a' has shape .* which no array can have"):
        TensorFile(tmp_path / "y")["a"]

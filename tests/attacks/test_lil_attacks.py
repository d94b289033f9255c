"""One test for each way in which a `.lil` file can lie: the answer is the same model or `FormatError` with the offset.

A forged file has the checksums right, so that what is tested is the lie itself.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lil_samples import START, forge, header, small, take_apart

from lilliput import kernels
from lilliput.core.edits import Map
from lilliput.core.perform import perform
from lilliput.errors import FormatError
from lilliput.store import account, load, read_record, save
from lilliput.store.file import EDITS, KEPT
from lilliput.store.format import read, write
from lilliput.store.header import DEPTH, HEADER_BYTES, NAME_BYTES, SECTIONS, TENSORS, Header
from lilliput.store.sections import pack
from lilliput.store.tensors import same, stored


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good file with codes, masks, side tensors, edits and plain floats."""
    path = tmp_path_factory.mktemp("lil") / "net.lil"
    save(small(), path, coder="plain")
    return path.read_bytes()


@pytest.fixture(scope="module")
def tiny() -> bytes:
    """The container of a few hundred bytes, without a network behind it."""
    tensors = {
        "a.codes": stored("a.codes", torch.tensor([[1, -2, 3]], dtype=torch.int8)),
        "a.mask": stored("a.mask", torch.tensor([True, False, True])),
        "a.weight": stored("a.weight", torch.tensor([0.5, -1.5])),
    }
    target = io.BytesIO()
    write(
        target,
        Header({"architecture": "resnet8", "edits": [], "recipe": None}, *_packed(tensors)[:1]),
        _packed(tensors)[1],
    )
    return target.getvalue()


def _packed(tensors: Any) -> Any:
    return pack(tensors)


def refused(data: bytes, message: str | None = None) -> FormatError:
    """The error that a file is answered with, by everything that reads files."""
    with pytest.raises(FormatError, match=message) as caught:
        load(data)
    assert caught.value.offset is not None and 0 <= caught.value.offset <= max(len(data), START.size)
    assert "\n" not in str(caught.value)
    return caught.value


def decided(data: bytes) -> None:
    """A file loads, or is refused with an offset; no third thing happens."""
    for reader in (read, read_record, account, load):
        try:
            reader(data)
        except FormatError as error:
            assert error.offset is not None


def lied(good: bytes, change: Any) -> bytes:
    """A good file with its header changed, its checksums right."""
    said, payloads = take_apart(good)
    change(said)
    return forge(said, payloads, honest=False)


# Damage: checksums as they were.


def test_every_truncation_is_refused(tiny: bytes, good: bytes) -> None:
    for size in [*range(len(tiny))]:
        with pytest.raises(FormatError):
            read(tiny[:size])
    for size in range(0, len(good), 997):
        refused(good[:size])


def test_every_flipped_bit_is_refused(tiny: bytes) -> None:
    for place in range(8 * len(tiny)):
        damaged = bytearray(tiny)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(FormatError):
            read(bytes(damaged))


@given(st.data())
def test_flipped_bits_of_a_model_are_refused(good: bytes, data: st.DataObject) -> None:
    damaged = bytearray(good)
    for place in data.draw(st.sets(st.integers(0, 8 * len(good) - 1), min_size=1, max_size=3)):
        damaged[place // 8] ^= 1 << place % 8
    refused(bytes(damaged))


def test_whatever_follows_is_refused(good: bytes) -> None:
    assert refused(good + b"\0", "1 bytes follow the last section").offset == len(good)
    refused(good + good)


@pytest.mark.parametrize("data", [b"", b"\x89", b"PK\x03\x04" + bytes(100), b"{}", bytes(1000), b"\x89LIL\n\x1a\n" + bytes(50)])
def test_other_files_are_refused(data: bytes) -> None:
    assert refused(data, "not a .lil file").offset == 0


def test_a_copy_that_changed_line_ends_is_refused(good: bytes) -> None:
    assert refused(good.replace(b"\r\n", b"\n")).offset == 0


# The start.


@pytest.mark.parametrize("version", [0, 3, 1 << 24, 2**32 - 1])
def test_other_versions_are_refused(version: int, good: bytes) -> None:
    data = bytearray(good)
    data[8:12] = version.to_bytes(4, "little")
    assert refused(bytes(data), f"this is version {version}, and this reader knows version 1").offset == 8


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES + 1, 2**31, 2**32 - 1])
def test_other_header_lengths_are_refused(length: int, good: bytes) -> None:
    data = bytearray(good)
    data[12:16] = length.to_bytes(4, "little")
    refused(bytes(data), "header")


def test_the_spare_field_must_be_zero(good: bytes) -> None:
    data = bytearray(good)
    data[20] = 1
    assert refused(bytes(data), "must be zero").offset == 20


def test_padding_must_be_zero(good: bytes) -> None:
    (_, _, length, _, _), data = START.unpack_from(good), bytearray(good)
    assert (24 + length) % 64, "the sample needs padding behind its header"
    data[24 + length] = 1
    assert refused(bytes(data), "must be zero").offset == 24 + length


# The header as text.


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"null", "not an object with exactly"),
        (b"[]", "not an object with exactly"),
        (b"{} ", "not an object with exactly"),
        (b"{}{}", "not JSON"),
        (b'{"a":1,"a":2}', "says `a` twice"),
        (b'{"a":NaN}', "not a finite number"),
        (b'{"a":-Infinity}', "not a finite number"),
        (b'{"a":1e999}', "not a finite number"),
        (b'{"a":' + b"9" * 5000 + b"}", "64 bits"),
        (b'{"a":0.' + b"9" * 5000 + b"}", "not a finite number"),
        (b'{"a":9223372036854775808}', "64 bits"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\\ud800"', "half a character"),
        (b'{"a":"\x00"}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON|BOM"),
        (nested(DEPTH + 1), "deep"),
        (nested(100_000), "deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "deep"),
    ],
)
def test_bad_header_texts_are_refused(text: bytes, message: str) -> None:
    refused(forge(text), message)


def test_an_escaped_backslash_is_no_half_character() -> None:
    refused(forge(json.dumps(header(record={"recipe": "\\ud800"})).encode()), "record is not an object|edits")


BOMBS = {
    "numbers": b"[" + b"1," * (HEADER_BYTES // 2 - 4) + b"1]",
    "lists": b"[" + b"[]," * (HEADER_BYTES // 3 - 4) + b"1]",
    "objects": b"[" + b'{"a":1},' * (HEADER_BYTES // 8 - 4) + b"1]",
    "keys": b"{" + b",".join(b'"%d":1' % i for i in range(HEADER_BYTES // 11)) + b"}",
    "twice": b"{" + b",".join(b'"%d":1' % i for i in range(HEADER_BYTES // 11)) + b',"7":1}',
    "backslashes": b'["' + b"\\" * (HEADER_BYTES - 8) + b'"]',
    "blanks": b" " * (HEADER_BYTES - 8) + b"{}",
}


@pytest.mark.parametrize("name", list(BOMBS))
def test_headers_as_large_as_allowed_are_decided(name: str) -> None:
    refused(forge(BOMBS[name]))


# What the header says.


def sections(**change: Any) -> dict[str, Any]:
    """A header with one plain section of two floats, changed."""
    row = {
        "codec": "plain",
        "dtype": "float32",
        "tensors": [["t", [2]]],
        "bytes": 8,
        "crc32": zlib.crc32(bytes(8)),
        **change,
    }
    return header(sections=[row], limits={"decoded": 8})


def one(*entry: Any, codec: str = "plain", dtype: str = "float32", size: int = 8, decoded: int = 8) -> bytes:
    """A file of one tensor that claims what it likes."""
    row = {"codec": codec, "dtype": dtype, "tensors": [list(entry)]}
    return forge(header(sections=[row], limits={"decoded": decoded}), [bytes(size)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": "zip"}, "no section encoding is called `zip`"),
        ({"codec": ["plain"]}, "`codec`"),
        ({"codec": "plain", "params": {"a": 1}}, "no such parameters"),
        ({"params": []}, "`params`"),
        ({"dtype": "float31"}, "no type of number is called `float31`"),
        ({"dtype": []}, "`dtype`"),
        ({"dtype": "bool"}, "booleans"),
        ({"bytes": -1}, "out of range"),
        ({"bytes": 7}, "1 bytes follow|damaged"),
        ({"bytes": 9}, "ends at byte"),
        ({"bytes": 2**62}, "ends at byte"),
        ({"bytes": True}, "`bytes`"),
        ({"bytes": 8.0}, "`bytes`"),
        ({"crc32": 0}, "damaged"),
        ({"crc32": 2**32}, "out of range"),
        ({"offset": 0}, "exactly"),
        ({"tensors": {}}, "`tensors`"),
        ({"tensors": [["t", [2]], ["t", [0]]]}, "order of their names"),
        ({"tensors": [["u", [1]], ["t", [1]]]}, "order of their names"),
        ({"tensors": [["t"]]}, "is not `.name, shape.`"),
        ({"tensors": [["t", [2], 0]]}, "is not `.name, shape.`"),
        ({"tensors": [["t", 2]]}, "a shape"),
        ({"tensors": [["t", [2.0]]]}, "is not a shape"),
        ({"tensors": [["t", [True, 2]]]}, "is not a shape"),
        ({"tensors": [["t", [-2]]]}, "is not a shape"),
        ({"tensors": [["t", [1] * 9]]}, "is not a shape"),
        ({"tensors": [["t", [2**31]]]}, "is not a shape"),
        ({"tensors": [["t", [2**16, 2**16]]]}, "has over"),
        ({"tensors": [["t", [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]]]}, "has over"),
        ({"tensors": [["t", [2], 0, 2]]}, "bounds"),
        ({"tensors": [["t", [2], 1, 0]]}, "bounds"),
        ({"tensors": [["t", [2], 0, None]]}, "a bound"),
    ],
    ids=str,
)
def test_bad_sections_are_refused(change: dict[str, Any], message: str) -> None:
    refused(forge(sections(**change), [bytes(8)], honest=False), message)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "../x",
        "a/b",
        "/etc/passwd",
        "..\\x",
        "a\0b",
        "a\nb",
        "\x7f",
        "n" * (NAME_BYTES + 1),
        3,
        None,
        ["a"],
    ],
    ids=repr,
)
def test_bad_names_are_refused(name: Any) -> None:
    refused(forge(sections(tensors=[[name, [2]]]), [bytes(8)], honest=False), "is not the name of a tensor")


@pytest.mark.parametrize("shape", [[3], [1], [], [1 << 20], [2**31 - 1], [1 << 15, 1 << 15], [0]])
@pytest.mark.parametrize("codec", ["plain", "bits"])
def test_tensors_that_claim_more_or_fewer_elements_than_bytes_are_refused(shape: list[int], codec: str) -> None:
    elements = int(torch.Size(shape).numel())
    bounds = (-(2**31), 2**31 - 1) if codec == "bits" else ()
    data = one("t", shape, *bounds, codec=codec, dtype="int32", decoded=4 * elements)
    refused(data, "the tensors of this section take|missing|is not the name|over the limit")
    with pytest.raises(FormatError, match="the tensors of this section take"):
        account(data)


def test_free_elements_do_not_exist() -> None:
    with pytest.raises(FormatError, match="take 268435456 bytes, and it has 0"):
        account(one("t", [2**31 - 1], 5, 5, codec="bits", dtype="int8", size=0, decoded=2**31 - 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": {"decoded": 7}}, "`decoded`"),
        ({"limits": {"decoded": True}}, "`decoded`"),
        ({"limits": {}}, "exactly decoded"),
        ({"limits": None}, "exactly decoded"),
        ({"tied": []}, "`tied`"),
        ({"tied": {"t": "t"}}, "another name"),
        ({"tied": {"u": "v"}}, "another name"),
        ({"tied": {"../u": "t"}}, "is not the name"),
        ({"tied": {"u": 1}}, "`tied`"),
        ({"codes": {"t": {}}}, "not a tensor of codes"),
        ({"codes": {"u": {}}}, "not a tensor of codes"),
        ({"codes": {"t": None}}, "side tensors"),
        ({"record": None}, "`record`"),
        ({"record": {}}, "list of edits"),
        ({"record": {"architecture": 3, "edits": [], "recipe": None}}, "texts or null"),
        ({"record": {"architecture": "resnet8", "edits": [], "recipe": []}}, "texts or null"),
        ({"record": {"architecture": None, "edits": [], "recipe": None}}, "no architecture"),
        ({"record": {"architecture": "resnet8", "edits": {}, "recipe": None}}, "list of edits"),
        ({"record": {"architecture": "resnet8", "edits": [3], "recipe": None}}, "is not an edit"),
        ({"more": 1}, "exactly"),
    ],
    ids=str,
)
def test_bad_headers_are_refused(change: dict[str, Any], message: str) -> None:
    refused(forge({**sections(), **change}, [bytes(8)]), message)


def test_a_tensor_in_two_sections_is_refused() -> None:
    row = {"codec": "plain", "dtype": "int8", "tensors": [["t", [2]]]}
    refused(forge(header(sections=[dict(row), dict(row)], limits={"decoded": 4}), [b"ab", b"cd"]), "two sections")


def test_counts_over_the_limits_are_refused() -> None:
    row = {"codec": "plain", "dtype": "int8", "tensors": [], "bytes": 0, "crc32": 0}
    refused(forge(header(sections=[row] * (SECTIONS + 1))), "sections, over the limit")
    many = {**row, "tensors": [[f"{i:06}", [0]] for i in range(TENSORS + 1)]}
    refused(forge(header(sections=[many])), "tensors, over the limit")
    edit = {"edit": "resize", "site": "conv1", "axis": "out", "keep": "0"}
    refused(forge(header(record={"architecture": "resnet8", "edits": [edit] * (EDITS + 1), "recipe": None})), "edits, over")


def test_short_texts_that_name_many_channels_are_refused() -> None:
    edit = {"edit": "resize", "site": "conv1", "axis": "out", "keep": f"0-{(1 << 20) - 1}"}
    record = {"architecture": "resnet8", "edits": [edit] * (KEPT // (1 << 20) + 1), "recipe": None}
    refused(forge(header(record=record)), f"name over {KEPT} channels")


@pytest.mark.parametrize(
    "edit",
    [
        {"edit": "resize", "site": "conv1", "axis": "out", "keep": ""},
        {"edit": "resize", "site": "conv1", "axis": "out", "keep": "0-99"},
        {"edit": "resize", "site": "conv1", "axis": "out", "keep": "0-999999999999"},
        {"edit": "resize", "site": "conv1", "axis": "7", "keep": "0"},
        {"edit": "resize", "site": "nowhere", "axis": "out", "keep": "0"},
        {"edit": "resize", "site": "conv1.weight", "axis": "9" * 4000, "keep": "0"},
        {"edit": "swap", "site": "conv1", "layer": "nothing", "spec": {}},
        {"edit": "map", "site": "conv1", "tensor": "weight", "map": "nothing", "spec": {}},
        {"edit": "map", "site": "conv1", "tensor": "weight", "map": "test.grid", "spec": {"bits": 10**6}},
        {"edit": "map", "site": "conv1", "tensor": "weight", "map": "test.grid", "spec": {"bits": "x"}},
        {"edit": "map", "site": "conv1", "tensor": "weight", "map": "test.grid", "spec": {"self": 1, "tensor": 2}},
        {"edit": "map", "site": "", "tensor": "weight", "map": "test.grid", "spec": {}},
        {"edit": "delete", "site": "conv1"},
    ],
    ids=lambda edit: str(edit)[:80],
)
def test_edits_that_do_not_fit_are_refused(edit: dict[str, Any]) -> None:
    record = {"architecture": "resnet8", "edits": [edit], "recipe": None}
    assert refused(forge(header(record=record))).offset == START.size


@pytest.mark.parametrize(
    "architecture",
    [
        *(
            "",
            ":",
            "resnet9",
            "\0",
            "x" * 10_000,
            "os:system",
            "x.py:main",
            "../../x.py:f",
            "lilliput.zoo.resnet_cifar:resnet8",
        ),
        *("resnet8:", "resnet8:width", "resnet8:width=", "resnet8:width=none", "resnet8:width=1e9", "resnet8:width=-1"),
        *("resnet8:width=NaN", "resnet8:width=Infinity", "resnet8:width=" + "9" * 5000, "resnet8:width=" + "[" * 5000),
        *("resnet8:classes=1e30", "resnet8:classes=0.5", "resnet8:classes=true", "resnet8:self=1"),
        *("shift_resnet20:expansion=50000", "densenet100_32:growth=1000000", "mobilenet_v1:width=300"),
    ],
    ids=lambda text: text[:24],
)
def test_architectures_that_cannot_be_built_are_refused(architecture: str) -> None:
    assert refused(forge(header(architecture))).offset == START.size


def test_code_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef build(): pass")
    refused(forge(header(f"{tmp_path / 'trap.py'}:build")), "only for a file that you trust")
    assert not (tmp_path / "ran").exists()


# What the header says of a network.


def entry(said: dict[str, Any], name: str) -> tuple[dict[str, Any], list[Any]]:
    return next((row, each) for row in said["sections"] for each in row["tensors"] if each[0] == name)


def renamed(said: dict[str, Any]) -> None:
    entry(said, "conv1.weight_maps.0.scale")[1][0] = "conv1.weight_maps.0.scales"
    said["codes"]["conv1.weight"]["scale"] = "conv1.weight_maps.0.scales"


def transposed(said: dict[str, Any]) -> None:
    entry(said, "linear.weight")[1][1].reverse()


def no_codes(said: dict[str, Any]) -> None:
    del said["codes"]["conv1.weight"]


def wrong_side(said: dict[str, Any]) -> None:
    said["codes"]["conv1.weight"] = {"scale": "linear.weight"}


def no_side(said: dict[str, Any]) -> None:
    said["codes"]["conv1.weight"] = {}


def codes_elsewhere(said: dict[str, Any]) -> None:
    said["codes"]["bn1.num_batches_tracked"] = {}


def tied_to_another_shape(said: dict[str, Any]) -> None:
    row, each = entry(said, "bn1.bias")
    row["tensors"].remove(each)
    said["tied"]["bn1.bias"] = "linear.weight"


def no_edits(said: dict[str, Any]) -> None:
    said["record"]["edits"] = []


def another_type(said: dict[str, Any]) -> None:
    row, _ = entry(said, "linear.weight")
    row["dtype"] = "int32"


def other_classes(said: dict[str, Any]) -> None:
    said["record"]["architecture"] = "resnet8:classes=11,width=0.25"


@pytest.mark.parametrize(
    "change",
    [
        renamed,
        transposed,
        no_codes,
        wrong_side,
        no_side,
        codes_elsewhere,
        tied_to_another_shape,
        no_edits,
        another_type,
        other_classes,
    ],
)
def test_files_that_do_not_fit_their_network_are_refused(change: Any, good: bytes) -> None:
    refused(lied(good, change))


def test_side_tensors_cannot_blow_a_weight_up(tmp_path: Path) -> None:
    """A codebook with 65,536 numbers an entry would decode 256 bits to a tensor of 64 megabytes."""
    model = small((Map("stages.0.conv1", "weight", "test.sign"),), "shift_resnet20:expansion=1")
    save(model, tmp_path / "net.lil", coder="plain")
    said, payloads = take_apart((tmp_path / "net.lil").read_bytes())
    said["codes"]["stages.0.conv1.weight"] = {"book": "large", "spare": "stages.0.conv1.weight.book"}
    said["sections"].append({"codec": "bits", "dtype": "float32", "tensors": [["large", [2, 1 << 16], 0, 1]]})
    said["limits"]["decoded"] += 4 << 17
    refused(forge(said, [*payloads, bytes(1 << 14)]), "over a limit")


# Anything at all.


@given(st.binary(max_size=300))
def test_any_bytes_are_decided(data: bytes) -> None:
    decided(data)
    decided(START.pack(b"\x89LIL\r\n\x1a\n", 1, len(data), zlib.crc32(data), 0) + data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a JSON tree stands."""
    yield at
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(part, (*at, key))


@given(st.data())
def test_any_lie_in_the_header_is_decided(good: bytes, data: st.DataObject) -> None:
    said, payloads = take_apart(good)
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from([p for p in paths(said) if p]))
        holder: Any = said
        for key in way:
            holder = holder[key]
        action = data.draw(st.sampled_from(["replace", "remove", "copy"]))
        if action == "remove":
            del holder[last]
        elif action == "copy":
            other = data.draw(st.sampled_from(list(paths(said))))
            value: Any = json.loads(json.dumps(said))
            for key in other:
                value = value[key]
            holder[last] = value
        else:
            holder[last] = json.loads(json.dumps(data.draw(JSON)))  # a copy: what was drawn must not be changed
    decided(forge(said, payloads, honest=data.draw(st.booleans())))


@given(st.data())
def test_any_content_of_sections_is_a_model_or_refused(good: bytes, data: st.DataObject) -> None:
    said, payloads = take_apart(good)
    number = data.draw(st.integers(0, len(payloads) - 1))
    changed = bytearray(payloads[number])
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    payloads[number] = bytes(changed)
    decided(forge(said, payloads))


def test_a_good_file_still_loads(good: bytes) -> None:
    wanted = small().state_dict()
    assert all(same(tensor, wanted[name]) for name, tensor in load(good).state_dict().items() if "bn" in name)


# Version 2: the header coded, sections by the context coder.


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same good file in version 2."""
    path = tmp_path_factory.mktemp("lil") / "coded.lil"
    save(small(), path, coder="context")
    return path.read_bytes()


def recoded(said: dict[str, Any], payloads: list[bytes]) -> bytes:
    """A file of version 2 with this header, its checksums right."""
    for row, data in zip(said["sections"], payloads, strict=True):
        row.update(bytes=len(data), crc32=zlib.crc32(data))
    text = json.dumps(said, separators=(",", ":")).encode()
    kept = kernels.encode_text(text)
    return START.pack(b"\x89LIL\r\n\x1a\n", 2, len(kept), zlib.crc32(kept), len(text)) + kept + b"".join(payloads)


def opened(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Header and sections of a good file of version 2."""
    _, _, length, _, size = START.unpack_from(data)
    said, at = json.loads(kernels.decode_text(data[START.size : START.size + length], size)), START.size + length
    payloads = []
    for row in said["sections"]:
        payloads.append(data[at : at + row["bytes"]])
        at += row["bytes"]
    return said, payloads


def test_a_coded_file_opens_by_the_page(coded: bytes) -> None:
    assert recoded(*opened(coded)).endswith(b"".join(opened(coded)[1]))
    load(recoded(*opened(coded)))


def test_every_truncation_of_a_coded_file_is_refused(coded: bytes) -> None:
    for size in range(len(coded)):
        with pytest.raises(FormatError):
            read(coded[:size])


def test_flipped_bits_of_a_coded_file_are_refused(coded: bytes) -> None:
    for place in range(0, 8 * len(coded), 7):
        damaged = bytearray(coded)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(FormatError):
            read(bytes(damaged))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A coded file of codebooks and indices, both in the order of values."""
    edits = [Map(site, "weight", "kmeans", {"bits": 5, "zero": True}) for site in ("layer2.0.conv1", "layer3.0.conv2")]
    model = small((), "resnet8:width=0.25")
    with torch.no_grad():
        for site in ("layer2.0.conv1", "layer3.0.conv2"):
            weight = model.get_parameter(f"{site}.weight")
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).mul(0.1).exp() - 1)
    path = tmp_path_factory.mktemp("lil") / "net.lil"
    save(perform(model, edits), path)
    return path.read_bytes()


def test_damaged_codebooks_are_refused(shared: bytes) -> None:
    said, payloads = opened(shared)
    assert load(recoded(said, payloads)).state_dict().keys() == load(shared).state_dict().keys()
    for number, (row, payload) in enumerate(zip(said["sections"], payloads, strict=True)):
        rest = [*payloads[:number], b"", *payloads[number + 1 :]]
        for size in range(0, len(payload), max(1, len(payload) // 25)):
            rest[number] = payload[:size]
            assert refused(recoded(said, rest)).offset, row["dtype"]


@given(st.data())
def test_flipped_bits_of_codebooks_are_decided(shared: bytes, data: st.DataObject) -> None:
    said, payloads = opened(shared)
    number = data.draw(st.integers(0, len(payloads) - 1))
    flipped = bytearray(payloads[number])
    for bit in data.draw(st.lists(st.integers(0, 8 * len(flipped) - 1), min_size=1, max_size=3)):
        flipped[bit // 8] ^= 1 << bit % 8
    decided(recoded(said, [*payloads[:number], bytes(flipped), *payloads[number + 1 :]]))


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES, HEADER_BYTES + 1, 2**32 - 1])
def test_a_header_text_of_another_length_is_refused(length: int, coded: bytes) -> None:
    data = bytearray(coded)
    data[20:24] = length.to_bytes(4, "little")
    refused(bytes(data), "bytes|JSON")


def test_every_truncation_of_a_coded_section_is_refused(coded: bytes) -> None:
    said, payloads = opened(coded)
    for number, whole in enumerate(payloads):
        for size in range(0, len(whole), 1 + len(whole) // 40):
            cut = [*payloads[:number], whole[:size], *payloads[number + 1 :]]
            refused(recoded(said, cut), "bytes")
        refused(recoded(said, [*payloads[:number], whole + b"\0", *payloads[number + 1 :]]), "bytes")


@given(st.data())
def test_any_content_of_coded_sections_is_a_model_or_refused(coded: bytes, data: st.DataObject) -> None:
    said, payloads = opened(coded)
    number = data.draw(st.integers(0, len(payloads) - 1))
    changed = bytearray(payloads[number])
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    payloads[number] = bytes(changed)
    decided(recoded(said, payloads))


@given(st.binary(min_size=1, max_size=200), st.integers(0, 60_000))
def test_any_coded_header_is_decided(kept: bytes, length: int) -> None:
    decided(START.pack(b"\x89LIL\r\n\x1a\n", 2, len(kept), zlib.crc32(kept), length) + kept)


@pytest.mark.parametrize("codec", ["context", "huffman"])
@pytest.mark.parametrize("shape", [[1 << 20], [2**31 - 1], [1 << 15, 1 << 15], [1, 2**31 - 1]])
def test_coded_tensors_that_claim_more_elements_than_bytes_allow_are_refused(shape: list[int], codec: str) -> None:
    elements = int(torch.Size(shape).numel())
    for bounds in ((), (0, 0), (-1, 1)):
        data = one("t", shape, *bounds, codec=codec, dtype="int64", size=64, decoded=8 * elements)
        with pytest.raises(FormatError, match=r"bytes|does not fit"):
            account(data)


@pytest.mark.parametrize(
    ("entry", "dtype"),
    [
        (["t", [2], -1, 1, 0.1], "float32"),
        (["t", [2], -1, 1, 0.0], "float32"),
        (["t", [2], -1, 1, -0.5], "float32"),
        (["t", [2], -1, 1, 1e-40], "float32"),
        (["t", [2], -1, 1, 1e300], "float32"),
        (["t", [2], -1, 1, 1], "float32"),
        (["t", [2], -1, 1, None], "float32"),
        (["t", [2], -1, 1, 0.5], "float64"),
        (["t", [2], -1, 1, 0.5], "int8"),
        (["t", [2], -(2**25), 1, 0.5], "float32"),
    ],
    ids=str,
)
def test_bad_steps_are_refused(entry: list[Any], dtype: str) -> None:
    refused(one(*entry, dtype=dtype), "step")

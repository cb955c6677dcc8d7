"""YAML of strangers: a small text may stand for any number of values, and is refused before any is made."""

import subprocess
import sys
import time

import pytest

from distens.config import _yaml
from distens.config.config import MAX_CONFIG_BYTES, load_config, parse_yaml, read_yaml
from distens.errors import ConfigError

MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1}\n  <<: [{', '.join([f'*a{i}'] * 8)}]\n" for i in range(9))


def tower(first, step, height=25):
    """A text whose last value is made of two copies of the one before it, and so on."""
    lines = [f"a0: &a0 {first}"] + [f"a{i + 1}: &a{i + 1} {step.format(f'*a{i}')}" for i in range(height)]
    return "\n".join(lines)


BOMBS = {
    "merge keys": (MERGES, "YAML 1.2 has no merge keys (`<<`, line 3)"),
    "one merge key": ("a: &a {x: 1}\nb: {<<: *a}", "no merge keys"),
    "a merge key of YAML 1.1": ("%YAML 1.1\n---\na: &a {x: 1}\nb: {<<: *a}", "%YAML 1.1: a config is YAML 1.2"),
    "lists": (tower("[x]", "[{0}, {0}]"), "more than 1,000,000 values, with aliases expanded"),
    "mappings": (tower("{k: x}", "{{l: {0}, m: {0}}}"), "more than 1,000,000 values"),
    "keys": (tower("[x]", "{{ {0} : {0} }}"), "more than 1,000,000 values"),
    "a list as a key": ("? [a, b]\n: 1", "a key that is a list or a mapping (line 1)"),
    "a mapping as a key": ("? {a: b}\n: 1", "a key that is a list or a mapping"),
    "an alias as a key": ("a: &a [x]\n*a : 1", "a key that is a list or a mapping"),
    "a chain of aliases": (tower("[x]", "[{0}]", 100), "nested more than 64 deep, with aliases expanded"),
    "itself": ("a: &a [*a]", "the alias *a is inside of what it stands for (line 1)"),
    "itself in a key": ("a: &a {? [*a] : 1}", "the alias *a is inside of what it stands for"),
    "a long tag": ("a: !" + "x" * 100_000 + " 1", "could not determine a constructor"),
    "flow lists": ("a: " + "[" * 100_000, "nested too deeply, more than 64 deep"),
    "flow mappings": ("a: " + "{a: " * 100_000, "nested too deeply"),
    "block lists": ("- " * 100_000, "nested too deeply"),
    "many values": ("[" + "1," * 200_000 + "]", "more than 20,000 values are written down"),
    "many keys": ("{" + ",".join(f"k{i}" for i in range(50_000)) + "}", "more than 20,000 values are written down"),
    "a long number": ("seed: " + "9" * 100_000, "seed: a number of 100000 digits; at most 400"),
    "a long hexadecimal number": ("seed: 0x" + "f" * 100_000, "seed: a number of 100002 digits"),
    "a long binary number": ("seed: 0b" + "1" * 100_000, "seed: a number of 100002 digits"),
    "a long fraction": ("seed: 0." + "1" * 100_000, "seed: a number of 100002 digits"),
    "a long number in a list": ("a: {b: [1, -" + "9" * 500 + "]}", "a.b.1: a number of 501 digits"),
    "a key twice": ("a: 1\nb: 2\na: 3", "duplicate key 'a' (line 3)"),
    "a key twice below": ("a: {b: 1, b: 2}", "a: duplicate key 'b'"),
    "a number twice": ("a: {1: x, 0x1: y}", "a: duplicate key '1'"),
    "a set": ("a: !!set {b, c}", "a: the tag 'tag:yaml.org,2002:set' is not allowed"),
    "an ordered mapping": ("a: !!omap [b: 1]", "a: the tag 'tag:yaml.org,2002:omap' is not allowed"),
    "a tag of Python's": ("a: !!python/tuple [b]", "python/tuple"),
    "a tag of one's own": ("a: !mine b", "mine"),
    "two documents": ("a: 1\n---\na: 2", "expected a single document"),
    "a control character": ("a: 'x\x1b[2J'", "special characters are not allowed"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once_and_in_one_line(name):
    text, words = BOMBS[name]
    began = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        read_yaml(text, "c.yaml")
    assert time.monotonic() - began < 5
    assert str(refused.value).startswith("c.yaml: not YAML: ") and words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 500


@pytest.mark.parametrize("where", ["file", "override", "runtime env", "run folder"])
def test_wherever_a_text_comes_from_it_is_refused(where, tmp_path):
    """In processes of their own, with a GiB of memory more than Python and its libraries take."""
    bomb, small = tmp_path / "bomb.yaml", tmp_path / "small.yaml"
    bomb.write_text(MERGES)
    small.write_text("name: x\ndata: {source: sklearn:iris}\nmembers: {a: {kind: classifier}}\nstorage: /tmp/x\n")
    words = {
        "file": ["run", str(bomb)],
        "override": ["run", str(small), "--set", "members={a: &a {b: 1}, <<: [*a, *a]}"],
        "runtime env": [
            "submit",
            str(small),
            "--runtime-env",
            str(bomb),
            "--set",
            "tracking=off",
            "--set",
            "search=random",
        ],
        "run folder": ["resume", str(tmp_path)],
    }[where]
    if where == "run folder":
        (tmp_path / "run.json").write_text('{"run": "x", "fingerprint": "", "identity": {}, "versions": {}}')
        (tmp_path / "config.yaml").write_text(MERGES)
    found = subprocess.run(
        [sys.executable, "-m", "distens.cli", *words], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert found.returncode == 2, found.stderr
    assert "no merge keys" in found.stderr and "Traceback" not in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1e999", "seed: expected a finite number, found inf"),
        ("seed: -.inf", "seed: expected a finite number, found -inf"),
        ("seed: .nan", "seed: expected a finite number, found nan"),
        ("seed: " + "9" * 60, "seed: expected a number of at most 128 bits, found 200 bits"),
        ("seed: 2001-01-01", "datetime.date"),
        ("seed: 1:30", "seed: Input should be a valid integer"),
    ],
)
def test_numbers_that_no_config_may_have(text, words):
    with pytest.raises(ConfigError, match="seed") as refused:
        parse_yaml(f"name: x\ndata: {{source: 'sklearn:iris'}}\nmembers: {{a: {{kind: classifier}}}}\n{text}", "c.yaml")
    assert words in str(refused.value)


def test_a_file_that_is_too_large_or_none(tmp_path):
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="at most 524,288 are allowed"):
        load_config(large)
    with pytest.raises(ConfigError, match="no such config"):
        load_config(tmp_path)


def test_aliases_are_copies():
    """An override of one place does not change another."""
    values = read_yaml("a: &a {x: [1]}\nb: *a\nc: &a 3\nd: *a", "x")
    values["a"]["x"].append(2)
    assert values == {"a": {"x": [1, 2]}, "b": {"x": [1]}, "c": 3, "d": 3}


def test_what_plain_configs_need_is_read():
    text = "'<<': 1\n? key\n: [a, 1:30, no, 0o17, 0x1F, 1_000, ~, 'x']\nt: !!str 5\nlong: " + "x" * 100_000
    found = read_yaml(text, "x")
    assert found.pop("long") == "x" * 100_000
    assert found == {"<<": 1, "key": ["a", "1:30", "no", 15, 31, 1000, None, "x"], "t": "5"}


def test_a_federation_of_thousands_of_sources_is_read():
    found = read_yaml("\n".join(f"site_{i}: s3://bucket/site_{i}.parquet" for i in range(4_000)), "x")
    assert len(found) == 4_000 and 4 * len(found) < _yaml.MAX_NODES


@pytest.mark.parametrize("text", ["a: " + "x " * 300_000, "#\n" * 300_000, "a: |\n" + " x\n" * 200_000])
def test_a_text_that_is_too_long_is_not_read(text):
    began = time.monotonic()
    with pytest.raises(ConfigError, match="at most 524,288 bytes"):
        read_yaml(text, "x")
    assert time.monotonic() - began < 1

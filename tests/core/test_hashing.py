import hashlib

import pytest

from sourcewise.core.hashing import fingerprint


@pytest.mark.parametrize(
    ("first", "second", "same"), [(1, 1.0, True), (0.1, 0.1000001, False), ("1", 1, False), (True, 1, False)]
)
def test_fingerprint_takes_equal_settings_for_equal(first: object, second: object, same: bool) -> None:
    assert (fingerprint({"x": first}) == fingerprint({"x": second})) == same
    assert (fingerprint([{"x": first}]) == fingerprint([{"x": second}])) == same


def test_a_fingerprint_is_that_of_canonical_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2.5,null],"b":{"c":"\\u00e9"}}').hexdigest()
    assert fingerprint({"b": {"c": "é"}, "a": (1.0, 2.5, None)}, length=64) == expected
    assert fingerprint({"b": {"c": "é"}, "a": (1.0, 2.5, None)}) == expected[:10]

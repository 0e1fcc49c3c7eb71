"""JSON that is almost what it should be."""

import copy
from typing import Any

from hypothesis import strategies as st

JUNK = st.one_of(
    st.sampled_from(
        [-1, 0, 1, 2, 0.5, -0.5, 1e-9, 1e30, float("nan"), float("inf"), 10**20, "", "x", "../x", None, True, [], {}]
    ),
    st.text(max_size=5),
    st.sampled_from([[7], ["x", None], {"": 1}, {"value": 3}, [[[]]]]),
)
"""Values that a setting or a field may be given by mistake, or on purpose."""


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values, those of containers as well."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


@st.composite
def spoilt(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with one to three values replaced by junk, left out, or put elsewhere."""
    tree = {"": copy.deepcopy(tree)}
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(tree)[1:] or [("",)]))
        node = tree
        for key in way:
            node = node[key]
        how = draw(st.sampled_from(["junk", "junk", "leave out", "elsewhere"]))
        if how == "leave out" and way:
            del node[last]
        elif how == "elsewhere" and way:
            node.insert(0, node[last]) if isinstance(node, list) else node.update({str(draw(JUNK)): node[last]})
        else:
            node[last] = copy.deepcopy(draw(JUNK))
    return tree.get("")
